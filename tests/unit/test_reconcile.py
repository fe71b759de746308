"""The check after a storm names each discrepancy."""

import json

import pytest

from benchmarks.reconcile import discrepancies

KEY = "plate 1/a.tif"
MASKS = {KEY: b"mask"}
ROW = {
    "job_id": "j1",
    "image": f"s3://lab-in/{KEY}",
    "status": "SUCCEEDED",
    "mask": f"s3://lab-out/{KEY}.mask.png",
}
OUTPUTS = {f"{KEY}.mask.png": b"mask", f"{KEY}.result.json": json.dumps({"job_id": "j1"}).encode()}
FAILED = {"job_id": "j1", "image": f"s3://lab-in/{KEY}", "status": "FAILED", "message": "{}", "error": "why"}


def test_one_job_with_the_quiet_mask_and_its_result_fits() -> None:
    assert discrepancies([ROW], OUTPUTS, MASKS, ("SUCCEEDED",)) == []


def test_a_failed_job_is_accepted_only_without_outputs() -> None:
    assert discrepancies([FAILED], {}, MASKS, ("SUCCEEDED", "FAILED")) == []
    assert discrepancies([FAILED], {}, MASKS, ("SUCCEEDED",)) == [f"{KEY}: it is FAILED"]


@pytest.mark.parametrize(
    ("rows", "outputs", "said"),
    [
        ([], {}, "it has 0 jobs"),
        (
            [ROW, ROW | {"job_id": "j2", "uploaded_at": "12:00:01"}],
            OUTPUTS,
            "it has 2 jobs, of uploads at None, 12:00:01",
        ),
        ([ROW | {"status": "RUNNING"}], OUTPUTS, "it is RUNNING"),
        ([ROW | {"lease_until": 1}], OUTPUTS, "its job is still held"),
        ([ROW | {"mask": "s3://lab-out/jobs/j1/a.mask.png"}], OUTPUTS, "its row names the mask"),
        ([ROW], OUTPUTS | {f"{KEY}.mask.png": b"other"}, "its mask is not the quiet run's"),
        ([ROW], {f"{KEY}.mask.png": b"mask"}, "its result is not its job's"),
        ([ROW | {"job_id": "j2", "uploaded_at": "12:00:01"}], OUTPUTS, "its result is not its job's"),
        ([FAILED | {"error": ""}], {}, "it failed without a message or a reason"),
    ],
)
def test_discrepancies_of_an_image_are_named(rows, outputs, said) -> None:  # type: ignore[no-untyped-def]
    (line,) = discrepancies(rows, outputs, MASKS, ("SUCCEEDED", "FAILED"))
    assert line.startswith(f"{KEY}: {said}")


def test_an_image_of_an_attached_bucket_has_its_bucket_in_its_name() -> None:
    name = f"lab-images/{KEY}"
    row = ROW | {"image": f"s3://{name}", "mask": f"s3://lab-out/{name}.mask.png"}
    outputs = {f"lab-images/{key}": content for key, content in OUTPUTS.items()}
    masks = {name: b"mask"}
    assert discrepancies([row], outputs, masks, ("SUCCEEDED",), attached=("lab-images",)) == []
    assert f"{KEY}: nobody uploaded it" in discrepancies([row], outputs, masks, ("SUCCEEDED",))


def test_discrepancies_without_an_upload_are_named() -> None:
    other = ROW | {"image": "s3://lab-in/b.tif"}
    assert discrepancies([ROW, other], OUTPUTS | {"jobs/j1/a.mask.png": b""}, MASKS, ("SUCCEEDED",)) == [
        "b.tif: nobody uploaded it",
        "jobs/j1/a.mask.png: belongs to no image",
    ]
