"""No two requests share an output, and the same request is the same job."""

from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from cytomask.addresses import S3Object
from cytomask.output_names import output_key
from cytomask.requests import Parameters, SegmentRequest
from cytomask.work import Work, fits, ground_truth_keys, job_prefix, rejected_message_id

BUCKET = "cytomask-input"
ATTACHED = frozenset({"lab", "jobs"})  # a bucket may have any name
MODEL, THRESHOLD = "f" * 64, 0.5
LONGEST_KEY = 1024
unicode = st.characters(codec="utf-8")


def work(key: str = "a.tif", etag: str = "e", bucket: str = BUCKET, **parameters: Any) -> Work:
    image = S3Object(bucket, key, etag=etag)
    return Work(SegmentRequest(image, Parameters(**parameters)), MODEL, THRESHOLD)


def test_the_same_work_has_the_same_id() -> None:
    assert work().job_id == work().job_id == work(threshold=THRESHOLD).job_id
    labelled = Work(
        SegmentRequest(S3Object(BUCKET, "a.tif", etag="e"), ground_truth=S3Object("t", "k"), label="x"),
        MODEL,
        THRESHOLD,
    )
    assert labelled.job_id == work().job_id


def test_everything_that_affects_the_mask_affects_the_job_id() -> None:
    image = S3Object(BUCKET, "a.tif", etag="e")
    works = [
        work(),
        work(key="b.tif"),
        work(bucket="another"),
        work(etag="f"),
        work(threshold=0.4),
        work(mode="resize"),
        work(pages="0"),
        work(channel=0),
        work(outputs=("mask", "overlay")),
        work(min_size_px=9),
        work(min_size_um2=9.0),
        work(fill_holes=True),
        work(pixel_size_um=(0.5, 0.5)),
        work(pixel_size_um=(0.5, 0.6)),
        Work(SegmentRequest(image), "0" * 64, THRESHOLD),
        Work(SegmentRequest(S3Object(BUCKET, "a.tif", "v1", "e")), MODEL, THRESHOLD),
        Work(SegmentRequest(S3Object(BUCKET, "a.tif", None, "e", "2026-11-22")), MODEL, THRESHOLD),
    ]
    assert len({each.job_id for each in works}) == len(works)


def test_a_request_without_cleaning_keeps_the_id_of_earlier_releases() -> None:
    assert work(threshold=0.4).job_id == "8ba2741fa71715426f1129cd12bf0063"


def test_the_id_of_a_versioned_object_ignores_its_upload_time() -> None:
    images = [S3Object(BUCKET, "a.tif", "v1", "e", time) for time in ("2026-11-22", None)]
    assert len({Work(SegmentRequest(image), MODEL, THRESHOLD).job_id for image in images}) == 1


@pytest.mark.parametrize(
    "other",
    [
        work(threshold=0.4),
        work(mode="resize"),
        work(pages="0"),
        work(channel=0),
        work(outputs=("overlay",)),
        work(bucket="another"),
        work(key="jobs/a.tif"),
        work(key="lab/a.tif"),
        work(bucket="jobs"),
        work(bucket="lab", key="a.tif.p0003"),
        work(bucket="lab", key="k" * 997),
        work(key="a.tif.p0003"),
        work(key="k" * 1001),
    ],
)
def test_only_a_default_request_owns_its_images_name(other: Work) -> None:
    assert own_name(work()) == own_name(work(threshold=THRESHOLD)) == "a.tif"
    assert own_name(work(key="k" * 1000)) == "k" * 1000
    assert own_name(work(key="lab")) == "lab"
    assert own_name(work(bucket="lab")) == "lab/a.tif"
    assert own_name(other) is None


def own_name(each: Work) -> str | None:
    return each.own_name(BUCKET, ATTACHED)


def outputs_of(each: Work, pages: int) -> set[str]:
    """Return every key that the work may write, for any image."""
    name = own_name(each)
    own = [name] if name else []
    kinds = ["mask.png", "probability.png", "overlay.png", "result.json"]
    numbers = [None, *range(pages)]
    prefixes = [*own, job_prefix(each.job_id, each.request.image.key)]
    return {output_key(prefix, kind, page) for prefix in prefixes for kind in kinds for page in numbers}


confusing = st.lists(
    st.sampled_from(
        [
            "a",
            ".tif",
            ".p0003",
            ".p0000",
            ".p12345",
            ".mask.png",
            ".result.json",
            "jobs/",
            "lab/",
            "/",
            "image",
            "k" * 990,
        ]
    ),
    min_size=1,
    max_size=6,
).map("".join)
works = st.builds(
    work,
    key=confusing,
    etag=st.sampled_from("ef"),
    bucket=st.sampled_from([BUCKET, "another", *sorted(ATTACHED)]),
    threshold=st.sampled_from([None, THRESHOLD, 0.4]),
    mode=st.sampled_from(["native", "resize"]),
    pages=st.sampled_from(["all", "0", "3"]),
    outputs=st.sampled_from([("mask",), ("mask", "overlay")]),
)


@given(works, works)
@example(work(key="a.tif"), work(key="a.tif.p0003"))
@example(work(key="a.tif"), work(key="a.tif.mask.png"))
@example(work(key="lab/a.tif"), work(bucket="lab", key="a.tif"))
@example(work(key=f"jobs/{work().job_id}/a.tif"), work(bucket="jobs", key=f"{work().job_id}/a.tif"))
def test_two_requests_never_share_an_output(one: Work, other: Work) -> None:
    same_image = one.request.image.uri == other.request.image.uri
    same_upload_or_newer = same_image and own_name(one) is not None and own_name(other) is not None
    assume(one.job_id != other.job_id and not same_upload_or_newer)
    assert not outputs_of(one, 5) & outputs_of(other, 5)


@given(works)
def test_the_outputs_of_two_jobs_never_share_a_folder(each: Work) -> None:
    message = output_key(job_prefix(rejected_message_id("body"), "message"), "result.json")
    assert message not in outputs_of(each, 5)
    work_named_like_an_output = work(key=job_prefix(each.job_id, each.request.image.key))
    assert not outputs_of(each, 5) & outputs_of(work_named_like_an_output, 5)


@given(st.text(unicode, min_size=1, max_size=1100))
@example("k" * LONGEST_KEY)
@example("ü" * (LONGEST_KEY // 2))
def test_no_key_of_ours_is_longer_than_s3_takes(key: str) -> None:
    assume(len(key.encode()) <= LONGEST_KEY)
    each = work(key=key)
    assert all(len(name.encode()) <= LONGEST_KEY for name in outputs_of(each, 1))
    assert all(len(name.encode()) <= LONGEST_KEY for name in ground_truth_keys(key))
    assert own_name(each) is None or fits(key)


def test_ground_truths_are_looked_for_by_the_likeliest_name_first() -> None:
    assert ground_truth_keys("plate 1/a.tif") == [
        "plate 1/a.tif",
        "plate 1/a.tif.png",
        "plate 1/a.png",
        "plate 1/a_mask.png",
    ]
    assert ground_truth_keys("no suffix") == ["no suffix", "no suffix.png", "no suffix_mask.png"]
    assert ground_truth_keys("a.png") == ["a.png", "a.png.png", "a_mask.png"]
