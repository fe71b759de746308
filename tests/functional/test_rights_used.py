"""No role of template.yaml allows more than its function needs: one test uses every right."""

import json
import os
from pathlib import Path
from typing import Any

import boto3
import pytest
from factories import (
    GROUND_TRUTH,
    INPUT,
    MODELS,
    REGION,
    SEGMENT_QUEUE_URL,
    LambdaContext,
    ground_truth,
    page,
    request,
    s3_record,
    sqs_batch,
    tiff,
)
from functions_on_moto import (
    EvaluateFunction,
    FailuresFunction,
    HttpDoor,
    SegmentStack,
    Sessions,
    acting,
)
from own_models import make_model
from rights import Role, table_of

TABLE_OF_RIGHTS = Path(__file__).parents[2] / "docs" / "rights.md"
TOPIC = f"arn:aws:sns:{REGION}:123456789012:cytomask-plates"
WELL = "P7_Phase_B2_1_00d04h00m.tif"


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the topic; request this fixture before the stack, whose functions publish to it."""
    monkeypatch.setenv("PLATE_TOPIC_ARN", TOPIC)


def announce(stack: SegmentStack, key: str, body: bytes, bucket: str = INPUT) -> dict[str, Any]:
    """Upload a version of an object and return S3's notice of it."""
    return {"Records": [s3_record(key, bucket, stack.upload(key, body, bucket))]}


def test_every_right_of_every_role_is_used(
    topic: None,
    stack: SegmentStack,
    evaluate: EvaluateFunction,
    failures: FailuresFunction,
    http: HttpDoor,
    roles: dict[str, Role],
    sessions: Sessions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for role in roles.values():
        role.used.clear()
    boto3.client("sns").create_topic(Name="cytomask-plates")
    for bucket in (INPUT, GROUND_TRUTH):
        stack.s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    segment_and_score(stack, evaluate)
    come_late(stack, monkeypatch)
    fail(stack, evaluate, failures)
    call(http)
    weights = store_weights(stack, tmp_path)
    monkeypatch.setenv("MODEL", weights)
    for name, app in (("segment", stack.app), ("failures", failures.app), ("api", http.api.app)):
        with acting(sessions.of_function[name]):
            app.connect()
    functions = {name: role for name, role in roles.items() if name != "command"}
    table = table_of(functions)
    unused = [line for line in table.splitlines() if "**no**" in line]
    assert not unused, "\n".join(unused)
    if os.environ.get("CYTOMASK_WRITE_DOCS"):
        head = TABLE_OF_RIGHTS.read_text().partition("| function |")[0]
        TABLE_OF_RIGHTS.write_text(head + table)
    assert TABLE_OF_RIGHTS.read_text().endswith(table)


def store_weights(stack: SegmentStack, folder: Path) -> str:
    """Store weights in the models bucket, as `cytomask promote` does; return their sha256."""
    sha256 = make_model(folder / "mine", "mine")
    for name in ("manifest.json", "swin_unet.onnx"):
        key = f"models/{sha256}/native/{name}"
        stack.s3.put_object(Bucket=MODELS, Key=key, Body=(folder / "mine" / name).read_bytes())
    return sha256


def segment_and_score(stack: SegmentStack, evaluate: EvaluateFunction) -> None:
    """Segment, overwrite and score images in both orders, and complete a plate."""
    for seed in (0, 1):
        stack.deliver(announce(stack, "a.tif", tiff(page(seed))))
    evaluate.deliver(announce(stack, "a.png", ground_truth(), GROUND_TRUTH))
    outline = {"id": 1, "image_id": 1, "segmentation": [[10, 10, 40, 10, 40, 50, 10, 50]]}
    named = {"id": 1, "file_name": "a.tif", "width": 80, "height": 64}
    coco = json.dumps({"images": [named], "annotations": [outline]}).encode()
    evaluate.deliver(announce(stack, "cells.json", coco, GROUND_TRUTH))
    evaluate.deliver_queued()
    evaluate.deliver(announce(stack, "b.png", ground_truth(), GROUND_TRUTH))
    stack.segment("b.tif", tiff())
    stack.upload("truth.png", ground_truth())
    stack.deliver(request("b.tif", ground_truth=f"s3://{INPUT}/truth.png"))
    evaluate.deliver(announce(stack, "truth.png", ground_truth()))
    evaluate.deliver_queued()
    stack.deliver(announce(stack, "image.tif", tiff(), GROUND_TRUTH))
    stack.upload(WELL, tiff())
    stack.deliver(request(WELL, expected_pages=1))
    stack.deliver(request(WELL, plate="P9"))


def come_late(stack: SegmentStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an attempt fail, and a batch run out of time for its last messages."""
    stack.wire.fail("PutObject", "SlowDown", 503)
    assert stack.deliver(announce(stack, "c.tif", tiff())) == [0]
    spent = iter([0, 0, 0, 0, 61, 61])
    with monkeypatch.context() as patch:
        patch.setattr(LambdaContext, "get_remaining_time_in_millis", lambda _: (120 - next(spent, 61)) * 1000)
        batch = sqs_batch(*(request(f"{key}.tif") for key in "abc"))
        for record in batch["Records"]:
            stack.sqs.send_message(QueueUrl=SEGMENT_QUEUE_URL, MessageBody=record["body"])
        stack.handle(batch)


def fail(stack: SegmentStack, evaluate: EvaluateFunction, failures: FailuresFunction) -> None:
    """Turn messages into dead letters: of an image with a mask, a plate's last page, and a ground truth."""
    failures.deliver(announce(stack, "b.tif", tiff(page(2))))
    stack.upload("P8" + WELL[2:], tiff())
    failures.deliver(request("P8" + WELL[2:], expected_pages=1))
    stack.wire.fail("GetObject", "SlowDown", 503)
    notice = announce(stack, "a.png", ground_truth() + b"\0", GROUND_TRUTH)
    assert evaluate.deliver(notice) == [0]
    failures.deliver_evaluations(notice)
    failures.deliver({"settle": f"s3://{INPUT}/a.tif"})
    failures.deliver(announce(stack, "given up.tif", tiff(), GROUND_TRUTH))
    stack.segment("d.tif", tiff())
    failures.deliver_evaluations(announce(stack, "d.png", ground_truth(), GROUND_TRUTH))


def call(http: HttpDoor) -> None:
    """Call every route."""
    job = http.post("/jobs", request("a.tif")).json["job_id"]
    for path in (f"/jobs/{job}", "/jobs?status=FAILED", "/jobs?group=P7", "/plates", "/plates/P7"):
        assert http.get(path).status == 200
    assert http.get("/plates/P7/pages").status == 200
    assert http.post("/jobs", {"image": f"s3://{GROUND_TRUTH}/a.png"}).status == 202
