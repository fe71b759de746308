"""Repeated work costs no inference, and newer work under a name replaces the older mask."""

import time
from collections.abc import Callable
from typing import Any

import boto3
import msgspec
import numpy as np
import pytest
from factories import INPUT, OUTPUT, TABLE, LambdaContext, page, request, s3_event, s3_record, stack_of, tiff
from functions_on_moto import SegmentStack

from cytomask.leads import Leads
from cytomask.model.predictor import Predictor
from cytomask.table import Table

pytestmark = pytest.mark.long


def keep_versions(stack: SegmentStack) -> None:
    stack.s3.put_bucket_versioning(Bucket=INPUT, VersioningConfiguration={"Status": "Enabled"})


def expected_mask(predictor: Predictor, seed: int) -> Any:
    return predictor.predict(page(seed)).mask * np.uint8(255)


def versions_of(key: str, *versions: Any) -> Any:
    return [{"Records": [s3_record(key, version=version)]} for version in versions]


def test_the_same_event_twice_costs_one_inference(
    stack: SegmentStack, log_lines: Callable[[str], list[dict[str, Any]]]
) -> None:
    first = stack.segment("a.tif", tiff())
    (second,) = stack.handle(s3_event("a.tif"))
    assert second == first
    assert stack.predictor.pages == 1
    assert len(stack.rows()) == 1
    (line,) = log_lines("duplicate_ignored")
    assert line["job_id"] == first["job_id"]


def test_duplicates_in_one_batch_cost_one_inference(stack: SegmentStack) -> None:
    stack.upload("a.tif", tiff())
    assert stack.deliver(s3_event("a.tif"), request("a.tif"), s3_event("a.tif", "a.tif")) == []
    assert stack.predictor.pages == 1


def test_two_spellings_of_pages_are_the_same_job(stack: SegmentStack) -> None:
    stack.upload("stack.tif", stack_of(2))
    for pages in (1, "1", "1-1", "01"):
        stack.handle(request("stack.tif", pages=pages))
    assert stack.predictor.pages == 1


def test_the_order_of_outputs_does_not_change_the_job(stack: SegmentStack) -> None:
    stack.upload("a.tif", tiff())
    stack.handle(request("a.tif", outputs=["mask", "overlay"]))
    stack.handle(request("a.tif", outputs=["overlay", "mask", "mask"]))
    assert stack.predictor.pages == 1


def test_other_parameters_make_another_job(stack: SegmentStack) -> None:
    stack.upload("a.tif", tiff())
    stack.deliver(request("a.tif"), request("a.tif", threshold=0.9), request("a.tif", mode="resize"))
    assert stack.predictor.pages == 3
    assert len({row["mask"] for row in stack.rows()}) == 3


def test_a_live_lease_sends_the_message_back(
    stack: SegmentStack, log_lines: Callable[[str], list[dict[str, Any]]]
) -> None:
    stack.upload("a.tif", tiff())
    stack.wire.cut("PutObject")
    assert stack.deliver(s3_event("a.tif")) == [0]
    stack.wire.mend()
    assert stack.row()["status"] == "RUNNING"
    assert stack.deliver(s3_event("a.tif"), s3_event("a.tif")) == [0, 1]
    assert stack.predictor.pages == 1
    assert len(log_lines("job_held")) == 2


def test_a_lease_outlasts_its_invocation(stack: SegmentStack) -> None:
    """A shorter one would be taken over while its owner still works, and the work would be paid twice."""
    stack.upload("a.tif", tiff())
    stack.wire.cut("PutObject")
    before = time.time()
    assert stack.deliver(s3_event("a.tif")) == [0]
    assert stack.row()["lease_until"] >= before + LambdaContext("").get_remaining_time_in_millis() / 1000


def test_a_live_lease_raises_for_a_direct_invocation(stack: SegmentStack) -> None:
    stack.upload("a.tif", tiff())
    stack.wire.cut("PutObject")
    stack.deliver(s3_event("a.tif"))
    stack.wire.mend()
    with pytest.raises(Exception, match="another invocation works on job"):
        stack.handle(request("a.tif"))


def test_an_expired_lease_is_taken_over(stack: SegmentStack) -> None:
    stack.upload("a.tif", tiff())
    stack.wire.cut("PutObject")
    stack.deliver(s3_event("a.tif"))
    stack.wire.mend()
    stack.expire_lease()
    assert stack.deliver(s3_event("a.tif")) == []
    assert stack.row()["status"] == "SUCCEEDED"
    assert stack.outputs() == {"a.tif.mask.png", "a.tif.result.json"}


@pytest.mark.parametrize("body", [tiff(), b"text"], ids=["image", "text"])
def test_a_crash_between_result_and_row_needs_no_second_inference(stack: SegmentStack, body: Any) -> None:
    stack.upload("a.tif", body)
    stack.wire.cut("UpdateItem", skip=2)
    assert stack.deliver(s3_event("a.tif")) == [0]
    stack.wire.mend()
    written, inferences = stack.result("a.tif.result.json"), stack.predictor.pages
    assert stack.row()["status"] == "RUNNING"
    stack.expire_lease()
    assert stack.deliver(s3_event("a.tif")) == []
    assert stack.row()["status"] == written["status"]
    assert stack.result("a.tif.result.json") == written
    assert stack.predictor.pages == inferences


def test_a_crash_before_the_evaluation_row_needs_no_second_inference(stack: SegmentStack) -> None:
    stack.upload("a.tif", tiff())
    stack.wire.cut("PutObject", skip=2)  # nothing of S3 is left to write: the next write is DynamoDB's
    stack.wire.fail("UpdateItem", "InternalServerError", 500, skip=2)
    assert stack.deliver(s3_event("a.tif")) == [0]
    assert stack.deliver(s3_event("a.tif")) == []
    assert stack.predictor.pages == 1
    assert [row["record"] for row in stack.rows("EVAL")] == ["EVAL#awaiting"]


def test_a_failed_job_whose_result_was_written_is_finished_by_a_redrive(stack: SegmentStack) -> None:
    stack.upload("a.tif", tiff())
    stack.wire.cut("UpdateItem", skip=2)
    stack.deliver(s3_event("a.tif"))
    stack.wire.mend()
    stack.set_status("FAILED")
    assert stack.deliver(s3_event("a.tif")) == []
    assert stack.row()["status"] == "SUCCEEDED"
    assert stack.predictor.pages == 1


def test_a_queued_row_is_taken_and_keeps_its_attempt(stack: SegmentStack) -> None:
    stack.upload("a.tif", tiff())
    stack.wire.cut("PutObject")
    stack.deliver(s3_event("a.tif"))
    stack.wire.mend()
    stack.set_status("QUEUED", attempt=2)
    assert stack.deliver(s3_event("a.tif")) == []
    assert (stack.row()["status"], stack.row()["attempt"]) == ("SUCCEEDED", 2)


def test_an_owner_that_lost_its_lease_does_not_end_the_job(
    stack: SegmentStack, log_lines: Callable[[str], list[dict[str, Any]]]
) -> None:
    stack.upload("a.tif", tiff())
    stack.wire.before("PutObject", lambda: stack.set_status("RUNNING", owner="another"), skip=1)
    assert stack.deliver(s3_event("a.tif")) == []
    assert (stack.row()["status"], stack.row()["owner"]) == ("RUNNING", "another")
    assert len(log_lines("lease_lost")) == 1


def test_an_overwritten_image_makes_a_new_job_and_replaces_the_mask(
    stack: SegmentStack, predictor: Predictor
) -> None:
    stack.segment("a.tif", tiff(page(0)))
    second = stack.segment("a.tif", tiff(page(1)))
    assert stack.outputs() == {"a.tif.mask.png", "a.tif.result.json"}
    assert np.array_equal(stack.mask("a.tif.mask.png"), expected_mask(predictor, 1))
    assert stack.result("a.tif.result.json") == second
    assert len(stack.rows()) == 2


def test_a_late_event_of_an_overwritten_image_costs_no_inference(stack: SegmentStack) -> None:
    stack.upload("a.tif", tiff(page(0)))
    stack.segment("a.tif", tiff(page(1)))
    stack.handle(s3_event("a.tif"))
    assert stack.predictor.pages == 1


def test_the_first_image_uploaded_again_gets_its_mask_back(stack: SegmentStack, predictor: Predictor) -> None:
    for hours, seed in ((3, 0), (2, 1), (1, 0)):
        stack.upload("a.tif", tiff(page(seed)))
        stack.age("a.tif", hours)
        stack.handle(s3_event("a.tif"))
        assert np.array_equal(stack.mask("a.tif.mask.png"), expected_mask(predictor, seed))


def test_a_late_older_version_leaves_the_newer_mask(
    stack: SegmentStack, predictor: Predictor, log_lines: Callable[[str], list[dict[str, Any]]]
) -> None:
    keep_versions(stack)
    older, newer = (stack.upload("a.tif", tiff(page(seed))) for seed in (0, 1))
    late, prompt = versions_of("a.tif", older, newer)
    assert stack.deliver(prompt, late) == []
    assert np.array_equal(stack.mask("a.tif.mask.png"), expected_mask(predictor, 1))
    assert stack.result("a.tif.result.json")["image"]["version_id"] == newer
    (row,) = (row for row in stack.rows() if row["mask"] != f"s3://{OUTPUT}/a.tif.mask.png")
    prefix = f"jobs/{row['job_id']}/a.tif"
    assert row["mask"] == f"s3://{OUTPUT}/{prefix}.mask.png"
    assert np.array_equal(stack.mask(f"{prefix}.mask.png"), expected_mask(predictor, 0))
    assert stack.result(f"{prefix}.result.json")["image"]["version_id"] == older
    assert len(log_lines("superseded")) == 1


def test_of_two_versions_with_the_same_bytes_the_newer_keeps_the_name(stack: SegmentStack) -> None:
    keep_versions(stack)
    older, newer = (stack.upload("a.tif", tiff()) for _ in range(2))
    late, prompt = versions_of("a.tif", older, newer)
    assert stack.deliver(prompt, late) == []
    assert stack.result("a.tif.result.json")["image"]["version_id"] == newer


def test_a_late_duplicate_of_a_replaced_version_is_not_answered_with_the_newer_result(
    stack: SegmentStack,
) -> None:
    keep_versions(stack)
    older = stack.upload("a.tif", tiff(page(0)))
    (event,) = versions_of("a.tif", older)
    (first,) = stack.handle(event)
    newer = stack.segment("a.tif", tiff(page(1)))
    (repeated,) = stack.handle(event)
    assert repeated == {"job_id": first["job_id"], "status": "SUCCEEDED"}
    assert stack.result("a.tif.result.json") == newer
    assert stack.predictor.pages == 2


# The number of row updates, of checks of the image, and of writes before the overwrite.
MOMENTS = {
    "before the writer is entered": ("UpdateItem", 1),
    "before the first look": ("HeadObject", 0),
    "between look and mask": ("PutObject", 0),
    "between mask and result": ("PutObject", 1),
    "before the second look": ("HeadObject", 1),
}
# The first mask under a name needs only the look after its last write.
CASES = [(moment, True) for moment in MOMENTS]
CASES += [(moment, False) for moment in MOMENTS if moment != "before the second look"]


@pytest.mark.parametrize(("moment", "had_a_mask"), CASES)
def test_an_overwrite_during_the_work_wins(
    stack: SegmentStack, predictor: Predictor, moment: Any, had_a_mask: bool
) -> None:
    def overwrite() -> None:
        stack.segment("a.tif", tiff(page(1)))

    if had_a_mask:
        stack.segment("a.tif", tiff(page(2)))
    stack.upload("a.tif", tiff(page(0)))
    operation, skip = MOMENTS[moment]
    stack.wire.before(operation, overwrite, skip=skip)
    (result,) = stack.handle(s3_event("a.tif"))
    assert np.array_equal(stack.mask("a.tif.mask.png"), expected_mask(predictor, 1))
    assert stack.result("a.tif.result.json") == result
    (older,) = stack.indexed("by_status", "status", "REJECTED")
    assert older["error_code"] == "IMAGE_REPLACED"
    assert older["result"] == f"s3://{OUTPUT}/jobs/{older['job_id']}/a.tif.result.json"


@pytest.mark.parametrize(("moment", "had_a_mask"), CASES)
def test_a_newer_version_during_the_work_wins_and_the_older_is_kept_aside(
    stack: SegmentStack, predictor: Predictor, moment: Any, had_a_mask: bool
) -> None:
    def overwrite() -> None:
        version = stack.upload("a.tif", tiff(page(1)))
        stack.handle({"Records": [s3_record("a.tif", version=version)]})

    keep_versions(stack)
    if had_a_mask:
        stack.segment("a.tif", tiff(page(2)))
    version = stack.upload("a.tif", tiff(page(0)))
    operation, skip = MOMENTS[moment]
    stack.wire.before(operation, overwrite, skip=skip)
    (older,) = stack.handle({"Records": [s3_record("a.tif", version=version)]})
    prefix = f"jobs/{older['job_id']}/a.tif"
    assert older["mask"] == f"s3://{OUTPUT}/{prefix}.mask.png"
    assert np.array_equal(stack.mask("a.tif.mask.png"), expected_mask(predictor, 1))
    assert stack.result("a.tif.result.json")["job_id"] != older["job_id"]
    assert np.array_equal(stack.mask(f"{prefix}.mask.png"), expected_mask(predictor, 0))
    assert stack.result(f"{prefix}.result.json") == older
    assert {row["status"] for row in stack.rows()} == {"SUCCEEDED"}


def test_an_unsegmented_overwrite_is_segmented_at_once(stack: SegmentStack, predictor: Predictor) -> None:
    stack.upload("a.tif", tiff(page(0)))
    stack.wire.before("PutObject", lambda: stack.upload("a.tif", tiff(page(1))))
    (result,) = stack.handle(s3_event("a.tif"))
    assert stack.result("a.tif.result.json") == result
    assert np.array_equal(stack.mask("a.tif.mask.png"), expected_mask(predictor, 1))


def test_an_image_overwritten_before_the_read_is_segmented_as_it_is_now(
    stack: SegmentStack, predictor: Predictor
) -> None:
    stack.upload("a.tif", tiff(page(0)))
    stack.wire.before("GetObject", lambda: stack.upload("a.tif", tiff(page(1))), key="a.tif")
    assert stack.deliver(request("a.tif")) == []
    assert np.array_equal(stack.mask("a.tif.mask.png"), expected_mask(predictor, 1))
    assert [row["status"] for row in stack.rows()] == ["SUCCEEDED"]
    assert stack.predictor.pages == 1


@pytest.mark.parametrize("moment", [moment for moment, had_a_mask in CASES if not had_a_mask])
def test_an_image_deleted_during_the_work_leaves_no_mask_under_its_name(
    stack: SegmentStack, moment: Any
) -> None:
    operation, skip = MOMENTS[moment]
    stack.upload("a.tif", tiff())
    stack.wire.before(operation, lambda: stack.s3.delete_object(Bucket=INPUT, Key="a.tif"), skip=skip)
    (result,) = stack.handle(s3_event("a.tif"))
    assert (result["status"], result["error"]["code"]) == ("REJECTED", "IMAGE_NOT_FOUND")
    assert stack.outputs() == {f"jobs/{result['job_id']}/a.tif.result.json"}


def test_a_version_deleted_during_the_work_is_segmented_aside(stack: SegmentStack) -> None:
    keep_versions(stack)
    version = stack.upload("a.tif", tiff())
    stack.wire.before("PutObject", lambda: stack.s3.delete_object(Bucket=INPUT, Key="a.tif"))
    (result,) = stack.handle({"Records": [s3_record("a.tif", version=version)]})
    assert result["status"] == "SUCCEEDED"
    prefix = f"jobs/{result['job_id']}/a.tif"
    assert stack.outputs() == {f"{prefix}.mask.png", f"{prefix}.result.json"}


def test_a_rejected_overwrite_says_so_in_the_result(stack: SegmentStack) -> None:
    stack.segment("a.tif", tiff())
    stack.segment("a.tif", b"text")
    assert stack.result("a.tif.result.json")["status"] == "REJECTED"


def test_a_rejected_overwrite_removes_the_earlier_mask(stack: SegmentStack) -> None:
    stack.segment("a.tif", tiff())
    stack.segment("a.tif", b"no image")
    assert stack.outputs() == {"a.tif.result.json"}


def test_a_shorter_stack_removes_the_masks_of_missing_pages(stack: SegmentStack) -> None:
    stack.segment("a.tif", stack_of(3))
    stack.segment("a.tif", stack_of(2))
    assert stack.outputs() == {"a.tif.p0000.mask.png", "a.tif.p0001.mask.png", "a.tif.result.json"}


def test_a_single_page_removes_the_masks_of_a_stack(stack: SegmentStack) -> None:
    stack.segment("a.tif", stack_of(2))
    stack.segment("a.tif", tiff())
    assert stack.outputs() == {"a.tif.mask.png", "a.tif.result.json"}


def test_keys_that_look_like_outputs_do_not_collide_with_outputs(stack: SegmentStack) -> None:
    keys = ["a.tif", "a.tif.p0001", "a.tif.mask.png", "jobs/0/a.tif"]
    results = [stack.segment(key, stack_of(2) if key == "a.tif" else tiff()) for key in keys]
    written = [page["mask"] for result in results for page in result["pages"]]
    written += [result["result"] for result in results]
    assert len(written) == len(set(written)) == 9
    assert stack.outputs() == {uri.removeprefix(f"s3://{OUTPUT}/") for uri in written}
    assert results[1]["mask"].startswith(f"s3://{OUTPUT}/jobs/{results[1]['job_id']}/")
    assert results[3]["mask"].startswith(f"s3://{OUTPUT}/jobs/{results[3]['job_id']}/")


def test_another_model_makes_a_new_job(
    stack: SegmentStack, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = stack.segment("a.tif", tiff())
    manifest = msgspec.structs.replace(predictor.manifests["native"], sha256="0" * 64)
    monkeypatch.setattr(stack.predictor, "manifests", predictor.manifests | {"native": manifest})
    (second,) = stack.handle(s3_event("a.tif"))
    assert second["job_id"] != first["job_id"]
    assert second["mask"] == first["mask"]
    assert stack.result("a.tif.result.json")["model"]["sha256"] == "0" * 64


def test_a_repeat_with_a_new_group_only_changes_the_group(stack: SegmentStack) -> None:
    first = stack.segment("a.tif", tiff())
    assert "group" not in stack.row()
    (repeated,) = stack.handle(request("a.tif", group="plate 7"))
    assert repeated["mask"] == first["mask"]
    assert stack.row()["group"] == "plate 7"
    assert stack.row()["status"] == "SUCCEEDED"
    assert stack.predictor.pages == 1
    assert [row["group"] for row in stack.rows("EVAL")] == ["plate 7"]
    leads = Leads(Table(boto3.client("dynamodb"), TABLE))
    assert [row["job_id"] for row in leads.jobs(group="plate 7")] == [first["job_id"]]


def test_a_repeat_without_a_group_keeps_it(stack: SegmentStack) -> None:
    stack.upload("a.tif", tiff())
    stack.handle(request("a.tif", group="plate 7"))
    stack.handle(s3_event("a.tif"))
    assert stack.row()["group"] == "plate 7"


def test_an_empty_group_removes_the_label(stack: SegmentStack) -> None:
    stack.upload("A172_Phase_1.tif", tiff())
    stack.handle(s3_event("A172_Phase_1.tif"))
    stack.handle(request("A172_Phase_1.tif", group=""))
    assert "group" not in stack.row()
