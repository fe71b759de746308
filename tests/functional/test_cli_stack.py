"""The commands that work on a stack, against faked AWS resources."""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, NoCredentialsError
from factories import (
    GROUND_TRUTH,
    INPUT,
    OUTPUT,
    QUEUE_URL,
    REGION,
    TABLE,
    ground_truth,
    request,
    s3_event,
    tiff,
)
from functions_on_moto import EvaluateFunction, SegmentStack

from cytomask.cli import evaluate as evaluate_command
from cytomask.cli import stack as stack_module
from cytomask.cli.main import main
from cytomask.cli.stack import Stack, StackNotFound

KEY = "plate 1/A172_Phase_C7_1.tif"
OUTPUTS = {
    "InputBucketName": INPUT,
    "OutputBucketName": OUTPUT,
    "GroundTruthBucketName": GROUND_TRUTH,
    "EvaluationQueueUrl": QUEUE_URL,
    "JobsTableName": TABLE,
}
COCO = {
    "images": [{"id": 1, "file_name": "A172_Phase_C7_1.tif", "width": 80, "height": 64}],
    "annotations": [{"id": 1, "image_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]}],
}


class CloudFormation:
    """The calls that the commands make to it."""

    meta = argparse.Namespace(region_name=REGION)

    def __init__(self, outputs: Any) -> None:
        self._outputs = outputs

    def describe_stacks(self, StackName: Any) -> dict[str, Any]:  # boto3's name
        if StackName != "cytomask":
            answer: Any = {"Error": {"Code": "ValidationError", "Message": "Stack does not exist"}}
            raise ClientError(answer, "DescribeStacks")
        outputs = [{"OutputKey": key, "OutputValue": value} for key, value in self._outputs.items()]
        return {
            "Stacks": [
                {"StackId": "arn:aws:cloudformation:eu-central-1:1:stack/cytomask/1", "Outputs": outputs}
            ]
        }


@pytest.fixture
def deployed(stack: SegmentStack, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the stack's resources as CloudFormation describes them to a command."""
    queue = stack.sqs.create_queue(QueueName="cytomask-segment")["QueueUrl"]
    outputs = OUTPUTS | {"SegmentQueueUrl": queue}

    def client(service: Any, endpoint_url: Any) -> Any:
        assert endpoint_url is None
        return CloudFormation(outputs) if service == "cloudformation" else boto3.client(service)

    monkeypatch.setattr(stack_module, "_client", client)
    monkeypatch.delenv("CYTOMASK_STACK", raising=False)
    return Stack.connect("cytomask")


def sent(deployed: Any) -> Any:
    answer = deployed.sqs.receive_message(QueueUrl=deployed.segment_queue, MaxNumberOfMessages=10)
    return [json.loads(message["Body"]) for message in answer.get("Messages", [])]


def keys_in(stack: SegmentStack, bucket: str) -> Any:
    return {item["Key"] for item in stack.s3.list_objects_v2(Bucket=bucket).get("Contents", [])}


@pytest.fixture
def folders(tmp_path: Path) -> Any:
    """Write two images and their ground truths, with other files beside them."""
    for name in ("images/plate 1/a.tif", "images/b.PNG", "masks/plate 1/a.png", "masks/coco.json"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(tiff())
    (tmp_path / "images" / "notes.txt").write_text("no image")
    (tmp_path / "images" / "table.json").write_text("{}")
    return tmp_path


def test_a_stack_is_found_by_its_outputs(deployed: Any) -> None:
    assert (deployed.input_bucket, deployed.table, deployed.api_url) == (INPUT, TABLE, None)


def test_a_missing_stack_is_reported(deployed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", "--stack", "elsewhere"]) == 2
    said = capsys.readouterr().err
    assert "there is no stack `elsewhere` in eu-central-1" in said
    assert "--stack or CYTOMASK_STACK, or give --endpoint-url" in said


def test_the_environment_names_the_stack(
    deployed: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CYTOMASK_STACK", "plates")
    assert main(["jobs"]) == 2
    assert "no stack `plates`" in capsys.readouterr().err


def test_a_stack_without_an_output_is_named(deployed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack_module, "_client", lambda *_: CloudFormation({"InputBucketName": INPUT}))
    with pytest.raises(StackNotFound, match="`cytomask` has no output 'OutputBucketName'; deploy it again"):
        Stack.connect("cytomask")


def test_missing_credentials_end_in_a_sentence(
    deployed: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def client(*_: Any) -> None:
        raise NoCredentialsError

    monkeypatch.setattr(stack_module, "_client", client)
    assert main(["jobs"]) == 2
    assert "`aws configure`" in capsys.readouterr().err


def test_an_emulator_that_does_not_answer_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", "--endpoint-url", "http://127.0.0.1:1"]) == 2
    said = capsys.readouterr().err
    assert "the stack `cytomask` cannot be looked up: Could not connect" in said
    assert "is `cytomask up` still running?" in said


def test_an_aws_refusal_becomes_a_sentence(
    deployed: Any, stack: SegmentStack, folders: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.s3.delete_bucket(Bucket=INPUT)
    assert main(["upload", str(folders / "images")]) == 2
    assert "NoSuchBucket" in capsys.readouterr().err


def test_upload_sends_folders_recursively(
    deployed: Any, stack: SegmentStack, folders: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["upload", str(folders / "images"), "--ground-truth", str(folders / "masks")]) == 0
    assert keys_in(stack, INPUT) == {"plate 1/a.tif", "b.PNG"}
    assert keys_in(stack, GROUND_TRUTH) == {"plate 1/a.png", "coco.json"}
    assert stack.s3.get_object(Bucket=INPUT, Key="b.PNG")["Body"].read() == tiff()
    assert f"s3://{INPUT}/plate 1/a.tif" in capsys.readouterr().out.splitlines()


def test_upload_sends_nothing_if_two_files_would_get_one_address(
    deployed: Any, stack: SegmentStack, folders: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (folders / "more").mkdir()
    (folders / "more" / "b.PNG").write_bytes(b"")
    assert main(["upload", str(folders / "images"), str(folders / "more" / "b.PNG")]) == 2
    assert "would both become" in capsys.readouterr().err
    assert keys_in(stack, INPUT) == set()


def test_upload_sends_nothing_if_a_file_is_missing(
    deployed: Any, stack: SegmentStack, folders: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["upload", str(folders / "images"), "missing.tif"]) == 2
    assert "no such file: missing.tif" in capsys.readouterr().err
    assert keys_in(stack, INPUT) == set()


def test_uploading_nothing_is_reported(
    deployed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["upload", str(tmp_path)]) == 2
    assert "no images were given" in capsys.readouterr().err


def test_submit_sends_a_request_for_each_image(deployed: Any) -> None:
    truth = f"s3://{GROUND_TRUTH}/coco.json"
    images = [f"s3://{INPUT}/a.tif", f"s3://{INPUT}/plate 1/ü.tif"]
    options = ["--ground-truth", truth, "--group", "HeLa", "--pages", "0-3", "--outputs", "mask", "overlay"]
    assert main(["submit", *images, *options]) == 0
    fields = {"ground_truth": truth, "group": "HeLa", "pages": "0-3", "outputs": ["mask", "overlay"]}
    assert sent(deployed) == [{"image": image} | fields for image in images]


def test_submit_sends_only_the_given_fields(deployed: Any) -> None:
    assert main(["submit", f"s3://{INPUT}/a.tif", "--threshold", "0"]) == 0
    assert sent(deployed) == [{"image": f"s3://{INPUT}/a.tif", "threshold": 0}]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["s3://bucket/a.tif", "a.tif"], '`image`: "a.tif" is not an S3 address'),
        (["s3://bucket/a.tif", "--threshold", "2"], "`threshold`"),
        (["s3://bucket/a.tif", "--pages", "x"], "`pages`"),
        (
            ["s3://bucket/a.tif", "--ground-truth", "truth.png"],
            '`ground_truth`: "truth.png" is not an S3 address',
        ),
        (["s3://bucket/a.tif", "--wait"], "s3://bucket/a.tif is in a bucket that this stack does not serve"),
        (
            ["s3://bucket/a.tif", "s3://bucket/b.tif", "--ground-truth", "s3://bucket/truth.png"],
            "s3://bucket/truth.png cannot be the ground truth of 2 images; submit them one by one",
        ),
    ],
)
def test_submit_sends_nothing_if_one_request_is_invalid(
    deployed: Any, capsys: pytest.CaptureFixture[str], arguments: list[Any], said: str
) -> None:
    assert main(["submit", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("nothing was sent: ")
    assert said in error
    assert sent(deployed) == []


@pytest.fixture
def noticed(evaluate: EvaluateFunction, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let S3 and Lambda work while the command waits."""

    def deliver(_: Any) -> None:
        keys = sorted(keys_in(evaluate.stack, GROUND_TRUTH))
        assert evaluate.deliver(s3_event(*keys, bucket=GROUND_TRUTH)) == []
        evaluate.deliver_queued()

    monkeypatch.setattr("cytomask.cli.evaluate.time.sleep", deliver)
    return evaluate


def coco_file(folder: Path, content: Any = COCO, name: str = "coco.json") -> Any:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_evaluate_uploads_a_coco_file_and_says_what_it_names(
    deployed: Any, stack: SegmentStack, noticed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.segment(KEY, tiff())
    assert main(["evaluate", "--coco", coco_file(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"uploaded s3://{GROUND_TRUTH}/coco.json\n1 images, 1 annotations" in said
    assert noticed.row()["evaluation_status"] == "SCORED"


def test_evaluate_counts_and_names_what_gets_no_score(
    deployed: Any, stack: SegmentStack, noticed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.segment(KEY, tiff())
    content: Any = json.loads(json.dumps(COCO))
    image = content["images"][0]
    content["images"] += [image | {"id": 2, "file_name": f"5f1b2c3d-{image['file_name']}"}, {"id": 3}]
    content["images"] += [{"id": 4, "file_name": "b.tif"}]
    content["annotations"].append({"image_id": 5})
    assert main(["evaluate", "--coco", coco_file(tmp_path, content)]) == 0
    said = capsys.readouterr().out.partition("coco.json\n")[2].splitlines()
    assert said[:-1] == [
        "3 images, 2 annotations",
        "2 names match no image in the stack so far: 5f1b2c3d-A172_Phase_C7_1.tif, b.tif",
        "1 images cannot be scored, because the file lists them without id, width or height, "
        "with the id of another or in letters that are not UTF-8: b.tif",
        "1 images have no file name and are left out",
        "2 images have no annotations and are rejected, because theirs may be lost",
        "1 annotations belong to images that the file does not list",
    ]


def test_evaluate_lists_what_waits(
    deployed: Any, stack: SegmentStack, noticed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for key in ("plate 1/a.tif", "plate 1/b.tif", KEY):
        stack.segment(key, tiff())
    for key in ("plate 1/a_mask.png", "plate 2/a.png", "notes.txt"):
        noticed.upload(key, ground_truth())
    content = {**COCO, "images": [*COCO["images"], {"id": 2, "file_name": "c.tif", "width": 8, "height": 8}]}
    assert main(["evaluate", "--coco", coco_file(tmp_path, content)]) == 0
    capsys.readouterr()
    assert main(["evaluate", "--waiting"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "1 masks have no ground truth so far:",
        f"  s3://{INPUT}/plate 1/b.tif",
        "1 ground truths have no image so far:",
        f"  s3://{GROUND_TRUTH}/plate 2/a.png",
        f"s3://{GROUND_TRUTH}/coco.json: 1 of 2 names matched no image when it was indexed:",
        "  c.tif",
    ]


def test_evaluate_narrows_the_file_to_a_prefix(
    deployed: Any, stack: SegmentStack, noticed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.segment(KEY, tiff())
    other = "plate ü/A172_Phase_C7_1.tif"
    stack.segment(other, tiff())
    prefix = f"s3://{INPUT}/plate ü/"
    assert main(["evaluate", "--coco", coco_file(tmp_path), "--images", prefix]) == 0
    assert f"uploaded s3://{GROUND_TRUTH}/{INPUT}/plate ü/coco.json" in capsys.readouterr().out
    statuses = {row["image"]: row["evaluation_status"] for row in stack.rows("EVAL")}
    assert statuses == {
        f"s3://{INPUT}/{KEY}": "AWAITING_GROUND_TRUTH",
        f"s3://{INPUT}/{other}": "SCORED",
    }


@pytest.mark.parametrize("bucket", [INPUT, GROUND_TRUTH])
def test_evaluate_takes_a_file_that_is_in_s3(
    deployed: Any, stack: SegmentStack, noticed: Any, bucket: Any
) -> None:
    stack.segment(KEY, tiff())
    stack.upload("annotations/coco.json", json.dumps(COCO).encode(), bucket=bucket)
    assert main(["evaluate", "--coco", f"s3://{bucket}/annotations/coco.json"]) == 0
    key = "coco.json" if bucket == INPUT else "annotations/coco.json"
    assert noticed.row()["ground_truth"] == f"s3://{GROUND_TRUTH}/{key}"
    assert noticed.row()["evaluation_status"] == "SCORED"


@pytest.mark.parametrize(
    ("content", "name", "images", "code", "said"),
    [
        ("no JSON", "coco.json", None, 1, "coco.json is not a COCO file"),
        (COCO | {"images": []}, "coco.json", None, 1, "coco.json lists no images"),
        (COCO, "coco.txt", None, 2, "coco.txt is not named like a COCO file; rename it to *.json"),
        (COCO, "coco.json", "plate 1/", 2, '--images: "plate 1/" is not an S3 address'),
    ],
)
def test_evaluate_uploads_nothing_of_what_it_can_refuse(
    deployed: Any,
    stack: SegmentStack,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: Any,
    name: str,
    images: str | None,
    code: int,
    said: str,
) -> None:
    options = [] if images is None else ["--images", images]
    assert main(["evaluate", "--coco", coco_file(tmp_path, content, name), *options]) == code
    assert said in capsys.readouterr().err
    assert keys_in(stack, GROUND_TRUTH) == set()


def test_evaluate_says_that_a_file_is_missing(deployed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--coco", "missing.json"]) == 2
    assert "missing.json cannot be read: No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (f"s3://{INPUT}/missing.json", f"there is no s3://{INPUT}/missing.json"),
        ("s3://B/missing.json", '"s3://B/missing.json" is not an S3 address'),
    ],
)
def test_evaluate_says_that_an_object_is_missing(
    deployed: Any, capsys: pytest.CaptureFixture[str], address: str, said: str
) -> None:
    assert main(["evaluate", "--coco", address]) == 2
    assert said in capsys.readouterr().err


def test_evaluate_says_why_the_function_rejected_the_file(
    deployed: Any, stack: SegmentStack, noticed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.upload("coco.json", b"no JSON")
    assert main(["evaluate", "--coco", f"s3://{INPUT}/coco.json"]) == 1
    assert "rejected: UNREADABLE_COCO: s3://" in capsys.readouterr().err


def test_evaluate_stops_waiting_after_its_timeout(
    deployed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate_command, "TIMEOUT_SECONDS", 0)
    assert main(["evaluate", "--coco", coco_file(tmp_path)]) == 1
    assert "was not indexed within 0 s" in capsys.readouterr().err


def listed(capsys: pytest.CaptureFixture[str]) -> Any:
    """Parse the table's lines by image: status, confluence, IoU, Dice, group, and the reason if any."""
    lines = capsys.readouterr().out.splitlines()
    head = next(place for place, line in enumerate(lines) if line.startswith("job "))
    cells = [re.split(r" {2,}", line) for line in lines[head + 1 :]]
    return {image: [*known, *reason] for (_, *known, image), reason in map(_reason_apart, cells)}


def _reason_apart(cells: Any) -> tuple[Any, ...]:
    return cells[:7], cells[7:]


def test_jobs_lists_every_job_with_its_score(
    deployed: Any, stack: SegmentStack, evaluate: EvaluateFunction, capsys: pytest.CaptureFixture[str]
) -> None:
    result = stack.segment(KEY, tiff())
    evaluate.upload(f"{KEY}.png", ground_truth())
    stack.segment("bad.tif", b"text")
    stack.deliver("no JSON")
    assert main(["jobs"]) == 0
    row, lines = evaluate.row(), listed(capsys)
    score = [f"{result['confluence']:.3f}", f"{row['iou']:.3f}", f"{row['dice']:.3f}", "A172"]
    assert lines[f"s3://{INPUT}/{KEY}"] == ["SUCCEEDED", *score]
    *bad, reason = lines[f"s3://{INPUT}/bad.tif"]
    assert bad == ["REJECTED", "-", "-", "-", "-"]
    assert reason.startswith("UNREADABLE_IMAGE: bad.tif is not a TIFF, PNG or JPEG")
    assert lines["message 'no JSON'"][0] == "REJECTED"
    assert lines["message 'no JSON'"][-1].startswith("INVALID_REQUEST: the message is not JSON")


def test_jobs_are_narrowed_by_status_and_by_group(
    deployed: Any, stack: SegmentStack, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.segment(KEY, tiff())
    stack.segment("A172_Phase_bad.tif", b"text")
    stack.segment("other.tif", tiff())
    good, bad, other = (f"s3://{INPUT}/{key}" for key in (KEY, "A172_Phase_bad.tif", "other.tif"))
    capsys.readouterr()  # the functions' log and metrics
    for options, expected in [
        (["--status", "succeeded"], {good, other}),
        (["--group", "A172"], {good, bad}),
        (["--group", "A172", "--status", "REJECTED"], {bad}),
    ]:
        assert main(["jobs", *options]) == 0
        assert set(listed(capsys)) == expected
    assert main(["jobs", "--group", "HeLa"]) == 0
    assert capsys.readouterr().err == "no jobs\n"


def test_jobs_refuses_an_unknown_status(deployed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", "--status", "done"]) == 2
    assert "invalid status DONE; use one of QUEUED, RUNNING" in capsys.readouterr().err


def test_jobs_shows_the_newest_last_and_says_that_there_are_more(
    deployed: Any, stack: SegmentStack, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b", "c"):
        stack.segment(f"{name}.tif", b"text")
    assert main(["jobs", "--limit", "2"]) == 0
    said = capsys.readouterr()
    assert re.findall(r"(\w)\.tif  ", said.out) == ["b", "c"]
    assert "these are the newest 2; --limit" in said.err


def test_jobs_shows_one_job_in_full(
    deployed: Any, stack: SegmentStack, evaluate: EvaluateFunction, capsys: pytest.CaptureFixture[str]
) -> None:
    result = stack.segment(KEY, tiff())
    stack.handle(request(KEY, group="plate 7"))
    evaluate.upload(f"{KEY}.png", ground_truth())
    assert main(["jobs", result["job_id"]]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^status +SUCCEEDED$", said, re.MULTILINE)
    assert re.search(rf"^{re.escape(evaluate.row()['record'])}$", said, re.MULTILINE)
    assert re.search(rf"^iou +{evaluate.row()['iou']}$", said, re.MULTILINE)
    assert said.count("plate 7") == 2


def test_an_unknown_job_is_reported(deployed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", "0" * 32]) == 1
    said = capsys.readouterr().err
    assert f"the stack `cytomask` has no job {'0' * 32}; `cytomask jobs` lists them" in said
