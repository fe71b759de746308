"""Each ground truth is scored with the right image, in any order of arrival and for any names."""

import itertools
import json
import unicodedata
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import boto3
import numpy as np
import pytest
from factories import (
    GROUND_TRUTH,
    HEIGHT,
    INPUT,
    OUTPUT,
    WIDTH,
    page,
    png,
    request,
    s3_event,
    s3_record,
    tiff,
)
from functions_on_moto import EvaluateFunction, SegmentStack

from cytomask.addresses import S3Object
from cytomask.evaluations import Evaluations
from cytomask.names import Names, writers_of
from cytomask.table import Table

LogLines = Callable[[str], list[dict[str, Any]]]

SQUARE = [[10, 10, 40, 10, 40, 50, 10, 50]]
FILE = "annotations.json"


def coco(*names: str) -> bytes:
    """Make a COCO file in which each image has one cell."""
    images = [
        {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT}
        for number, name in enumerate(names)
    ]
    cells = [{"image_id": each["id"], "segmentation": SQUARE} for each in images]
    return json.dumps({"images": images, "annotations": cells}).encode()


def truth() -> bytes:
    return png(np.eye(HEIGHT, WIDTH, dtype=np.uint8))


def picture(seed: int) -> bytes:
    return tiff(page(seed))


def statuses(stack: SegmentStack) -> dict[str, list[str]]:
    """Return the status of each image's evaluations, by key."""
    found: dict[str, list[str]] = {}
    for row in stack.rows("EVAL"):
        found.setdefault(row["image"].removeprefix(f"s3://{INPUT}/"), []).append(row["evaluation_status"])
    return {key: sorted(each) for key, each in found.items()}


def upload_coco(evaluate: EvaluateFunction, content: bytes, images: str = "") -> None:
    evaluate.stack.s3.put_object(
        Bucket=GROUND_TRUTH, Key=FILE, Body=content, Metadata={"images": quote(images)}
    )
    assert evaluate.deliver(s3_event(FILE, bucket=GROUND_TRUTH)) == []
    assert evaluate.deliver_queued() == []


@pytest.mark.parametrize("truth_first", [True, False], ids=["truth first", "image first"])
@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("p/a.tif", "p/a_masks.png"),
        ("p/a.tif", "p/a_cp_masks.TIFF"),
        ("p/a.tif", "p/a_label.tiff"),
        ("p/a.tif", "p/a-Labels.PNG"),
        ("p/a.tif", "p/a.PNG"),
        ("p/a.tif", "p/a.tiff"),
        ("p/a.ome.tif", "p/a_mask.ome.tiff"),
        ("p/a b.tif", "p/a%20b.png"),
        ("p/ü.tif", unicodedata.normalize("NFD", "p/ü_mask.png")),
        (unicodedata.normalize("NFD", "p/ü.tif"), "p/ü.png"),
        ("p/a.tif", "p\\a_mask.png"),
    ],
)
def test_a_mask_is_found_by_its_usual_names(
    stack: SegmentStack, evaluate: EvaluateFunction, image: str, mask: str, truth_first: bool
) -> None:
    content = truth() if mask.lower().endswith("png") else tiff(np.eye(HEIGHT, WIDTH, dtype=np.uint8))
    if truth_first:
        assert evaluate.upload(mask, content) == []
        stack.segment(image, tiff())
        assert evaluate.deliver_queued() == []
    else:
        stack.segment(image, tiff())
        assert evaluate.upload(mask, content) == []
    assert statuses(stack) == {image: ["SCORED"]}
    assert evaluate.row()["ground_truth"] == f"s3://{GROUND_TRUTH}/{mask}"


def test_a_mask_of_another_folder_or_name_is_not_the_image_s(
    stack: SegmentStack, evaluate: EvaluateFunction
) -> None:
    stack.segment("p/a.tif", tiff())
    for mask in ("a_mask.png", "q/a_mask.png", "p/a_1.png", "p/ab_mask.png", "p/unmask.png"):
        assert evaluate.upload(mask, truth()) == []
    assert statuses(stack) == {"p/a.tif": ["AWAITING_GROUND_TRUTH"]}


def test_every_mask_of_an_image_is_scored_whichever_comes_first(
    stack: SegmentStack, evaluate: EvaluateFunction
) -> None:
    masks = {"a.png": truth(), "a_mask.png": png(np.tri(HEIGHT, WIDTH, dtype=np.uint8))}
    for key, content in masks.items():
        assert evaluate.upload(key, content) == []
    stack.segment("a.tif", tiff())
    assert evaluate.deliver_queued() == []
    stack.segment("b.tif", tiff())
    for key, content in masks.items():
        assert evaluate.upload(key.replace("a", "b", 1), content) == []
    assert statuses(stack) == {"a.tif": ["SCORED"] * 2, "b.tif": ["SCORED"] * 2}


@pytest.mark.parametrize("file_first", [True, False], ids=["file first", "image first"])
@pytest.mark.parametrize(
    ("image", "file_name"),
    [
        ("a.tif", "images\\a.tif"),
        ("images/a.tif", "images\\a.tif"),
        ("ü.tif", unicodedata.normalize("NFD", "ü.tif")),
        (unicodedata.normalize("NFD", "ü.tif"), "ü.tif"),
        ("plate 1/a+b.tif", "plate%201/a%2Bb.tif"),
        ("plate 1/a.tif", f"s3://{INPUT}/plate 1/a.tif"),
        ("plate 1/a.tif", "./plate 1//a.tif"),
        ("10%FBS/day%201.tif", "10%FBS/day%201.tif"),
    ],
)
def test_a_file_name_is_read_whichever_tool_wrote_it(
    stack: SegmentStack, evaluate: EvaluateFunction, image: str, file_name: str, file_first: bool
) -> None:
    if not file_first:
        stack.segment(image, tiff())
    upload_coco(evaluate, coco(file_name))
    if file_first:
        stack.segment(image, tiff())
        assert evaluate.deliver_queued() == []
    assert statuses(stack) == {image: ["SCORED"]}


def keep_old_row(stack: SegmentStack, address: str, key: str) -> None:
    """Add the row by which an earlier release listed an image's job, with outputs that lay elsewhere."""
    items = stack.table.scan()["Items"]
    (job,) = (item for item in items if item["record"] == "JOB")
    job_id = job["job_id"]
    elsewhere = f"s3://{OUTPUT}/jobs/{job_id}/{key}"
    outputs = {"mask": f"{elsewhere}.mask.png", "result": f"{elsewhere}.result.json"}
    old = {"job_id": f"GROUND_TRUTH#{address}", "record": f"TRUTH_OF#{job_id}"}
    stack.table.put_item(Item={"image": job["image"]} | outputs | old)


@pytest.mark.parametrize("truth_is", ["mask", "COCO file"])
def test_a_job_with_a_row_of_an_earlier_release_is_scored_once_with_its_present_mask(
    stack: SegmentStack, evaluate: EvaluateFunction, truth_is: str
) -> None:
    result = stack.segment("a.tif", tiff())
    for address in ("mask:a", "coco:a.tif", f"s3://{GROUND_TRUTH}/a_mask.png"):
        keep_old_row(stack, address, "a.tif")
    if truth_is == "mask":
        assert evaluate.upload("a_mask.png", truth()) == []
    else:
        assert evaluate.upload(FILE, coco("a.tif")) == []
        (message,) = stack.evaluation_messages()
        assert message["result"] == result["result"]
        assert evaluate.deliver(message) == []
    (row,) = stack.rows("EVAL#")
    assert (row["evaluation_status"], row["mask"]) == ("SCORED", result["mask"])


# The calls of an image, in their order: the operation, and how many such calls come before.
CALLS = [
    ("GetObject", 0),
    ("UpdateItem", 0),
    ("UpdateItem", 1),
    ("PutObject", 0),
    ("PutObject", 1),
    ("HeadObject", 0),
    ("Query", 0),
    ("Query", 1),
    ("UpdateItem", 2),
]


@pytest.mark.parametrize("retried", [False, True], ids=["at once", "after a fault"])
@pytest.mark.parametrize("truth_is", ["mask", "COCO file"])
@pytest.mark.parametrize("call", CALLS)
def test_a_ground_truth_that_arrives_before_any_call_of_its_image_is_scored(
    stack: SegmentStack, evaluate: EvaluateFunction, call: tuple[str, int], truth_is: str, retried: bool
) -> None:
    def arrive() -> None:
        if truth_is == "mask":
            assert evaluate.upload("a_mask.png", truth()) == []
        else:
            upload_coco(evaluate, coco("a.tif"))
        assert {row["evaluation_status"] for row in stack.rows("EVAL#")} <= {"SCORED"}
        if retried:
            raise ConnectionError("the answer was lost")

    stack.upload("a.tif", tiff())
    stack.wire.before(call[0], arrive, skip=call[1])
    if stack.deliver(s3_event("a.tif")):
        assert stack.deliver(s3_event("a.tif")) == []
    assert stack.wire.rules[0].times == 0
    assert evaluate.deliver_queued() == []
    assert statuses(stack) == {"a.tif": ["SCORED"]}


# The calls of a ground truth whose image comes meanwhile, in their order.
CALLS_OF_A_TRUTH = {
    "mask": [("HeadObject", 0), ("PutItem", 0), ("PutItem", 1), *(("Query", number) for number in range(5))],
    "COCO file": [("GetObject", 0), ("PutObject", 0), ("UpdateItem", 0), ("Query", 0), ("UpdateItem", 1)],
}


@pytest.mark.parametrize(
    ("truth_is", "call"), [(kind, call) for kind, calls in CALLS_OF_A_TRUTH.items() for call in calls]
)
def test_an_image_that_arrives_before_any_call_of_its_ground_truth_is_scored(
    stack: SegmentStack, evaluate: EvaluateFunction, truth_is: str, call: tuple[str, int]
) -> None:
    def arrive() -> None:
        assert stack.deliver(s3_event("a.tif")) == []

    stack.upload("a.tif", tiff())
    key, content = ("a_mask.png", truth()) if truth_is == "mask" else (FILE, coco("a.tif"))
    stack.s3.put_object(Bucket=GROUND_TRUTH, Key=key, Body=content)
    stack.wire.before(call[0], arrive, skip=call[1])
    assert evaluate.deliver(s3_event(key, bucket=GROUND_TRUTH)) == []
    assert stack.wire.rules[0].times == 0
    assert evaluate.deliver_queued() == []
    assert statuses(stack) == {"a.tif": ["SCORED"]}


# The calls of a request that names its ground truth, from the last look at the image on.
NAMED_CALLS = [("HeadObject", 0), ("UpdateItem", 2), ("UpdateItem", 3), ("HeadObject", 1), ("UpdateItem", 4)]


@pytest.mark.parametrize("call", NAMED_CALLS)
def test_a_named_ground_truth_that_arrives_before_any_call_of_its_image_is_scored(
    stack: SegmentStack, evaluate: EvaluateFunction, call: tuple[str, int]
) -> None:
    def arrive() -> None:
        stack.s3.put_object(Bucket=GROUND_TRUTH, Key="elsewhere.png", Body=truth())
        assert evaluate.deliver(s3_event("elsewhere.png", bucket=GROUND_TRUTH)) == []

    stack.upload("a.tif", tiff())
    stack.wire.before(call[0], arrive, skip=call[1])
    assert stack.deliver(request("a.tif", ground_truth=f"s3://{GROUND_TRUTH}/elsewhere.png")) == []
    assert stack.wire.rules[0].times == 0
    assert evaluate.deliver_queued() == []
    assert statuses(stack) == {"a.tif": ["SCORED"]}


@pytest.mark.parametrize("call", [("HeadObject", 0), ("PutItem", 0), ("Query", 0), ("Query", 2)])
def test_an_image_that_names_a_ground_truth_during_its_upload_is_scored(
    stack: SegmentStack, evaluate: EvaluateFunction, call: tuple[str, int]
) -> None:
    def arrive() -> None:
        assert stack.deliver(request("a.tif", ground_truth=f"s3://{GROUND_TRUTH}/elsewhere.png")) == []

    stack.upload("a.tif", tiff())
    stack.s3.put_object(Bucket=GROUND_TRUTH, Key="elsewhere.png", Body=truth())
    stack.wire.before(call[0], arrive, skip=call[1])
    assert evaluate.deliver(s3_event("elsewhere.png", bucket=GROUND_TRUTH)) == []
    assert stack.wire.rules[0].times == 0
    assert evaluate.deliver_queued() == []
    assert statuses(stack) == {"a.tif": ["SCORED"]}


@pytest.mark.parametrize("truth_is", ["mask", "COCO file"])
@pytest.mark.parametrize("call", CALLS)
def test_a_ground_truth_that_arrives_while_its_image_waits_for_a_retry_is_scored(
    stack: SegmentStack, evaluate: EvaluateFunction, call: tuple[str, int], truth_is: str
) -> None:
    stack.upload("a.tif", tiff())
    stack.wire.cut(*call)
    assert stack.deliver(s3_event("a.tif")) == [0]
    stack.wire.mend()
    if truth_is == "mask":
        assert evaluate.upload("a_mask.png", truth()) == []
    else:
        upload_coco(evaluate, coco("a.tif"))
    assert {row["evaluation_status"] for row in stack.rows("EVAL#")} <= {"SCORED"}
    for row in stack.rows():
        stack.table.put_item(Item=row | {"lease_until": 1})
    assert stack.deliver(s3_event("a.tif")) == []
    assert evaluate.deliver_queued() == []
    assert statuses(stack) == {"a.tif": ["SCORED"]}


def test_a_score_before_its_job_ends_is_in_the_plate_s_table(
    stack: SegmentStack, evaluate: EvaluateFunction
) -> None:
    def arrive() -> None:
        assert evaluate.upload("A172_Phase_C7_1_00d00h00m_1_mask.png", truth()) == []

    stack.wire.before("Query", arrive)
    stack.segment("A172_Phase_C7_1_00d00h00m_1.tif", tiff())
    (score,) = stack.rows("EVAL#")
    (row,) = stack.rows()
    assert row["plate"]
    assert row["iou"] == score["iou"]


@pytest.mark.parametrize("truth_is", ["mask", "COCO file"])
def test_a_rejected_image_is_no_image_to_score(
    stack: SegmentStack, evaluate: EvaluateFunction, truth_is: str
) -> None:
    stack.segment("bad/a.tif", b"no image")
    stack.segment("good/a.tif", tiff())
    if truth_is == "mask":
        assert evaluate.upload("bad/a_mask.png", truth()) == []
    else:
        upload_coco(evaluate, coco("a.tif"))
    assert statuses(stack) == {"good/a.tif": ["AWAITING_GROUND_TRUTH" if truth_is == "mask" else "SCORED"]}


def test_a_replaced_image_leaves_its_ground_truth_to_the_newer(
    stack: SegmentStack, evaluate: EvaluateFunction
) -> None:
    stack.segment("a.tif", picture(0))
    newer = stack.segment("a.tif", picture(1))
    (row,) = (row for row in stack.table.scan()["Items"] if row["record"].startswith("TRUTH_OF#"))
    assert {name for name, _ in writers_of(row)} >= {newer["job_id"]}
    assert evaluate.upload("a_mask.png", truth()) == []
    scored = [row for row in stack.rows("EVAL#") if row["evaluation_status"] == "SCORED"]
    assert [row["job_id"] for row in scored] == [newer["job_id"]]


def test_a_job_whose_request_names_its_ground_truth_is_not_found_by_name(
    stack: SegmentStack, evaluate: EvaluateFunction
) -> None:
    stack.upload("a.tif", tiff())
    named = f"s3://{GROUND_TRUTH}/elsewhere.png"
    assert stack.deliver(request("a.tif", ground_truth=named)) == []
    assert evaluate.upload("a_mask.png", truth()) == []
    assert statuses(stack) == {"a.tif": ["AWAITING_GROUND_TRUTH"]}
    assert evaluate.upload("elsewhere.png", truth()) == []
    assert statuses(stack) == {"a.tif": ["SCORED"]}


def test_a_job_that_is_done_again_with_a_named_truth_is_still_found_by_name(
    stack: SegmentStack, evaluate: EvaluateFunction
) -> None:
    result = stack.segment("a.tif", tiff())
    stack.s3.delete_object(Bucket=OUTPUT, Key="a.tif.mask.png")
    named = request("a.tif", ground_truth=f"s3://{GROUND_TRUTH}/elsewhere.png")
    assert stack.deliver(named) == []
    assert stack.row()["attempt"] == 2
    assert evaluate.upload("a_mask.png", truth()) == []
    assert evaluate.upload("elsewhere.png", png(np.tri(HEIGHT, WIDTH, dtype=np.uint8))) == []
    assert statuses(stack) == {"a.tif": ["SCORED", "SCORED"]}
    assert {row["job_id"] for row in stack.rows("EVAL#")} == {result["job_id"]}


@pytest.mark.parametrize("truth_first", [True, False], ids=["truth first", "truth last"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0), (1, 0, 0)], ids=["notice first", "request first", "twice"])
def test_an_upload_and_a_request_that_names_a_truth_may_arrive_in_any_order(
    stack: SegmentStack, evaluate: EvaluateFunction, order: tuple[int, ...], truth_first: bool
) -> None:
    """Whoever uploads an image and sends a message at once does not know which comes first."""
    messages = s3_event("a.tif"), request("a.tif", ground_truth=f"s3://{GROUND_TRUTH}/elsewhere.png")
    other = png(np.tri(HEIGHT, WIDTH, dtype=np.uint8))
    stack.upload("a.tif", tiff())
    for step in ("truth", "image") if truth_first else ("image", "truth"):
        if step == "image":
            for number in order:
                assert stack.deliver(messages[number]) == []
        else:
            assert [evaluate.upload("a_mask.png", truth()), evaluate.upload("elsewhere.png", other)] == [
                [],
                [],
            ]
    assert evaluate.deliver_queued() == []
    assert statuses(stack) == {"a.tif": ["SCORED", "SCORED"]}


@pytest.mark.parametrize("truth_is", ["mask", "COCO file"])
def test_an_upload_killed_before_its_scores_keeps_the_truths_of_its_name_for_a_named_request(
    stack: SegmentStack, evaluate: EvaluateFunction, truth_is: str
) -> None:
    if truth_is == "mask":
        assert evaluate.upload("a_mask.png", truth()) == []
    else:
        upload_coco(evaluate, coco("a.tif"))
    assert evaluate.upload("elsewhere.png", png(np.tri(HEIGHT, WIDTH, dtype=np.uint8))) == []
    stack.upload("a.tif", tiff())
    stack.wire.cut("Query")
    assert stack.deliver(s3_event("a.tif")) == [0]
    stack.wire.mend()
    stack.table.put_item(Item=stack.row() | {"lease_until": 1})
    assert stack.deliver(request("a.tif", ground_truth=f"s3://{GROUND_TRUTH}/elsewhere.png")) == []
    assert evaluate.deliver_queued() == []
    assert statuses(stack) == {"a.tif": ["SCORED", "SCORED"]}


def two_versions(stack: SegmentStack) -> tuple[str, str]:
    """Upload two versions of an image, and segment the newer before the older; return their ids."""
    stack.s3.put_bucket_versioning(Bucket=INPUT, VersioningConfiguration={"Status": "Enabled"})
    older, newer = (stack.upload("a.tif", picture(seed)) for seed in (1, 2))
    for version in (newer, older):
        assert stack.deliver({"Records": [s3_record("a.tif", version=version)]}) == []
    return str(older), str(newer)


def row_of_writers(stack: SegmentStack) -> dict[str, Any]:
    leads = [row for row in stack.table.scan()["Items"] if row["record"].startswith("TRUTH_OF#")]
    (row,) = (row for row in leads if "mask" not in row)
    return dict(row)


def test_the_row_of_a_name_does_not_grow_with_the_older_versions_of_its_image(stack: SegmentStack) -> None:
    two_versions(stack)
    newest = stack.result("a.tif.result.json")["job_id"]
    assert len(stack.rows()) == 2
    assert [name for name, _ in writers_of(row_of_writers(stack))] == [newest]


@pytest.mark.parametrize("truth_is", ["mask", "COCO file"])
def test_a_version_that_is_the_newest_again_is_scored_with_its_present_mask(
    stack: SegmentStack, evaluate: EvaluateFunction, truth_is: str
) -> None:
    older, newer = two_versions(stack)
    stack.s3.delete_object(Bucket=INPUT, Key="a.tif", VersionId=newer)
    assert stack.deliver(s3_event("a.tif")) == []
    result = stack.result("a.tif.result.json")
    assert result["image"]["version_id"] == older
    for key in stack.outputs():
        if key.startswith("jobs/"):
            stack.s3.delete_object(Bucket=OUTPUT, Key=key)
    if truth_is == "mask":
        assert evaluate.upload("a_mask.png", truth()) == []
    else:
        upload_coco(evaluate, coco("a.tif"))
    rows = {row["job_id"]: row for row in stack.rows("EVAL#")}
    assert rows[result["job_id"]]["evaluation_status"] == "SCORED"
    assert rows[result["job_id"]]["mask"] == result["mask"]


class Busy:
    """A client of DynamoDB that has capacity for few rows of each BatchGetItem."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def batch_get_item(self, RequestItems: dict[str, Any]) -> Any:
        ((name, asked),) = RequestItems.items()
        assert asked["ConsistentRead"]
        now, later = asked["Keys"][:30], asked["Keys"][30:]
        answer = self._client.batch_get_item(RequestItems={name: asked | {"Keys": now}})
        return answer | {"UnprocessedKeys": {name: asked | {"Keys": later}} if later else {}}


def test_a_name_in_many_folders_leads_to_all_its_jobs_on_a_busy_table(stack: SegmentStack) -> None:
    stack.segment("0/a.tif", tiff())
    busy: Any = Busy(boto3.client("dynamodb"))
    table = Table(busy, stack.table.name)
    job, names = stack.row(), Names(table)
    images = [S3Object(INPUT, f"{number}/a.tif", etag=str(number)) for number in range(1, 111)]
    for number, image in enumerate(images, 1):
        job_id = f"{number:032x}"
        stack.table.put_item(Item=job | {"job_id": job_id, "image": image.uri})
        names.enter(image, job_id, seconds=0, result=f"s3://{OUTPUT}/{image.key}.result.json")
    found = list(Evaluations(table).expecting_coco("a.tif", f"s3://{INPUT}/"))
    assert len({job.job_id for job in found}) == len(found) == 111


ORDERS = list(itertools.permutations(["plate 1/a.tif", "plate 2/a.tif", FILE]))
MARKED_ORDERS = [
    pytest.param(order, id=" ".join(key[6:7] for key in order), marks=[pytest.mark.slow] if at % 5 else [])
    for at, order in enumerate(ORDERS)
]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["plate 1/a.tif"], {"plate 1/a.tif": ["SCORED"], "plate 2/a.tif": ["AWAITING_GROUND_TRUTH"]}),
        (["a.tif"], {"plate 1/a.tif": ["REJECTED"], "plate 2/a.tif": ["REJECTED"]}),
        (["x/plate 2/a.tif"], {"plate 1/a.tif": ["AWAITING_GROUND_TRUTH"], "plate 2/a.tif": ["SCORED"]}),
        (["plate 1/a.tif", "plate 2/a.tif"], {"plate 1/a.tif": ["SCORED"], "plate 2/a.tif": ["SCORED"]}),
    ],
    ids=["one plate", "no folder", "folders above", "both plates"],
)
@pytest.mark.parametrize("order", MARKED_ORDERS)
def test_whole_names_decide_in_every_order(
    stack: SegmentStack,
    evaluate: EvaluateFunction,
    names: list[str],
    expected: dict[str, list[str]],
    order: tuple[str, ...],
) -> None:
    for key in order:
        if key == FILE:
            upload_coco(evaluate, coco(*names))
        else:
            stack.segment(key, picture(int(key[6])))
            assert evaluate.deliver_queued() == []
    assert statuses(stack) == expected
    for row in stack.rows("EVAL#"):
        if row["evaluation_status"] == "REJECTED":
            assert row["error_code"] == "IMAGE_NOT_NAMED"
            assert "does not tell whether" in row["error"]
            assert "iou" not in row


def test_one_image_under_two_addresses_is_not_ambiguous(
    stack: SegmentStack, evaluate: EvaluateFunction
) -> None:
    for key in ("plate 1/a.tif", "copies/a.tif"):
        stack.segment(key, picture(1))
    upload_coco(evaluate, coco("a.tif"))
    assert statuses(stack) == {"plate 1/a.tif": ["SCORED"], "copies/a.tif": ["SCORED"]}


def test_a_new_version_of_an_image_does_not_make_its_truth_doubtful(
    stack: SegmentStack, evaluate: EvaluateFunction
) -> None:
    for seed in (1, 2):
        stack.segment("plate 1/a.tif", picture(seed))
    upload_coco(evaluate, coco("a.tif"))
    assert sorted(row.get("error_code", "") for row in stack.rows("EVAL#")) == ["", "MASK_REPLACED"]


def test_a_prefix_resolves_an_ambiguous_name(stack: SegmentStack, evaluate: EvaluateFunction) -> None:
    for plate in (1, 2):
        stack.segment(f"plate {plate}/a.tif", picture(plate))
    upload_coco(evaluate, coco("a.tif"), images=f"s3://{INPUT}/plate 2/")
    assert statuses(stack) == {"plate 1/a.tif": ["AWAITING_GROUND_TRUTH"], "plate 2/a.tif": ["SCORED"]}


def test_a_request_that_names_the_file_leaves_no_doubt(
    stack: SegmentStack, evaluate: EvaluateFunction
) -> None:
    for plate in (1, 2):
        stack.segment(f"plate {plate}/a.tif", picture(plate))
    upload_coco(evaluate, coco("a.tif", "b.tif"))
    stack.upload("plate 3/a.tif", picture(3))
    stack.handle(request("plate 3/a.tif", ground_truth=f"s3://{GROUND_TRUTH}/{FILE}"))
    assert evaluate.deliver_queued() == []
    assert statuses(stack)["plate 3/a.tif"] == ["SCORED"]


def test_names_that_match_no_image_are_counted_and_named(
    stack: SegmentStack, evaluate: EvaluateFunction, log_lines: LogLines
) -> None:
    stack.segment("a.tif", tiff())
    upload_coco(evaluate, coco("a.tif", "images/5f1b2c3d-a.tif", "b.tif"))
    (row,) = stack.rows("INDEX#")
    assert (row["images"], row["unmatched"]) == (3, 2)
    assert row["unmatched_names"] == ["b.tif", "images/5f1b2c3d-a.tif"]
    (line,) = log_lines("coco_names_unmatched")
    assert (line["level"], line["unmatched"]) == ("WARNING", 2)
    assert line["unmatched_names"] == row["unmatched_names"]


def test_the_row_of_a_coco_file_counts_entries_without_a_score(
    stack: SegmentStack, evaluate: EvaluateFunction
) -> None:
    content = json.loads(coco("a.tif", "b.tif"))
    content["images"] += [{"id": 7, "file_name": "c.tif"}, {"id": 8}, {**content["images"][0], "id": 9}]
    content["images"][-1]["file_name"] = "empty.tif"
    content["annotations"].append({"image_id": 77, "segmentation": SQUARE})
    upload_coco(evaluate, json.dumps(content).encode())
    (row,) = stack.rows("INDEX#")
    counted = ("images", "images_without_name", "images_without_annotations", "annotations_without_image")
    assert [row[name] for name in counted] == [4, 1, 2, 1]
    assert (row["refused"], row["refused_names"]) == (1, ["c.tif"])
