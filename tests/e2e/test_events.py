"""Every way in, through `sam local invoke` and the real container."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from account import EVENTS, keys_of
from tools import invoke_locally, mask_of_command_line, pixels

# An event's parameters beyond the defaults, as options of the command line.
ASKED = {"direct": ["--mode", "resize"], "request_in_sqs": ["--threshold", "0.6"]}
QUEUED = {"request_in_sqs", "s3_in_sqs"}
OF_OTHER_QUEUES = {"ground_truth_in_sqs": "EvaluateFunction", "dead_letter": "FailuresFunction"}
FILES = {path.stem for path in EVENTS.glob("*.json") if not path.stem.startswith("http-")}
NAMES = sorted(FILES - OF_OTHER_QUEUES.keys())
OVER_HTTP = {
    "http-seg-mask": ("SegmentFunction", 200),
    "http-seg-mask-png": ("SegmentFunction", 200),
    "http-seg-mask-body": ("SegmentFunction", 200),
    "http-post-job": ("ApiFunction", 202),
    "http-get-job": ("ApiFunction", 404),
    "http-get-jobs": ("ApiFunction", 200),
    "http-get-plates": ("ApiFunction", 200),
}


def test_there_is_an_event_file_for_every_way_in() -> None:
    ways = {"s3_put", "s3_put_nasty_key", "two_s3_records", "s3_in_sqs", "request_in_sqs"}
    assert ways | {"eventbridge", "sns_wrapped", "s3_removed", "s3_test_event", "direct"} <= set(NAMES)
    assert OF_OTHER_QUEUES.keys() <= FILES
    assert {path.stem for path in EVENTS.glob("*.json")} == FILES | OVER_HTTP.keys()


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("name", NAMES)
def test_masks_of_an_event_are_those_of_the_command_line(
    name: Any, store: Any, pictures: Any, environment_file: Any, tmp_path: Path
) -> None:
    event = EVENTS / f"{name}.json"
    invoked = invoke_locally(event, environment_file)

    bucket = store.outputs["InputBucketName"]
    jobs = [job for key in keys_of(event) for job in store.jobs(f"s3://{bucket}/{key}")]
    if name in QUEUED:
        assert invoked.answer == {"batchItemFailures": []}
    else:
        assert [result["job_id"] for result in invoked.answer] == [job["job_id"] for job in jobs]
    assert len(jobs) == {"s3_test_event": 0, "two_s3_records": 2}.get(name, 1)
    for job, key in zip(jobs, keys_of(event), strict=True):
        expected = mask_of_command_line(pictures[key], tmp_path, ASKED.get(name, []))
        assert job["status"] == "SUCCEEDED"
        np.testing.assert_array_equal(store.mask(job["mask"]), expected)


@pytest.mark.usefixtures("built", "pictures")
@pytest.mark.parametrize("name", OF_OTHER_QUEUES)
def test_a_batch_of_another_queue_is_taken(name: Any, store: Any, environment_file: Any) -> None:
    invoked = invoke_locally(EVENTS / f"{name}.json", environment_file, OF_OTHER_QUEUES[name])
    assert invoked.answer == {"batchItemFailures": []}
    if name == "dead_letter":
        [key] = keys_of(EVENTS / f"{name}.json")
        [job] = store.jobs(f"s3://{store.outputs['InputBucketName']}/{key}")
        assert job["status"] == "FAILED"


@pytest.mark.usefixtures("built", "pictures")
@pytest.mark.parametrize("name", OVER_HTTP)
def test_a_call_over_http_is_answered_in_the_form_of_the_http_api(name: Any, environment_file: Any) -> None:
    function, status = OVER_HTTP[name]
    answer = invoke_locally(EVENTS / f"{name}.json", environment_file, function).answer
    assert answer["statusCode"] == status
    kind = answer["headers"]["Content-Type"]
    if name in ("http-seg-mask-png", "http-seg-mask-body"):
        assert (kind, answer["isBase64Encoded"]) == ("image/png", True)
        pixels(io.BytesIO(base64.b64decode(answer["body"])))
    else:
        assert kind == ("application/json" if status < 400 else "application/problem+json")
