"""A backfill's choice of images from listings and inventories."""

import gzip
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from cytomask.addresses import S3Object
from cytomask.backfill import Listed, Wanted, batched, is_image, read_inventory
from cytomask.cli.attach import overlapping
from cytomask.cli.backfill import Pace, split_place
from cytomask.errors import InvalidRequest
from cytomask.output_names import OUTPUT_FILES


def listed(key: str, uploaded_at: str = "2026-11-25T10:00:00+00:00") -> Listed:
    return Listed(S3Object("lab", key, etag="e", uploaded_at=uploaded_at), 100)


@pytest.mark.parametrize(
    "key",
    [
        *(
            "a/",
            "a.tif/",
            "a/notes.txt",
            "plate.xml",
            "a.JSON",
            ".DS_Store",
            "film.mp4",
            "talk.docx",
            "README",
        ),
        *("p/._a.tif", "p/a.tif.mask.png", "p/a.tif.p0003.overlay.png"),
    ],
)
def test_what_upload_passes_over_is_no_image(key: str) -> None:
    assert not Wanted().takes(listed(key))


def test_an_empty_object_is_no_image() -> None:
    assert Wanted().takes(listed("p/a.TIF"))
    assert not Wanted().takes(replace(listed("p/a.TIF"), size=0))


def test_no_output_of_ours_is_an_image() -> None:
    endings = [ending for files in OUTPUT_FILES.values() for ending in files.values()]
    for ending in (*endings, "result.json"):
        assert not is_image(f"p/a.tif.{ending}")
        assert not is_image(f"p/a.tif.p0003.{ending}")


def test_a_pattern_is_matched_against_the_whole_key() -> None:
    assert Wanted(match="*/p1/*_Ph.tif").takes(listed("scans/p1/a_Ph.tif"))
    assert not Wanted(match="p1/*").takes(listed("scans/p1/a_Ph.tif"))


def test_since_counts_from_the_upload() -> None:
    wanted = Wanted(since=datetime(2026, 11, 25, 9, tzinfo=UTC))
    assert wanted.takes(listed("a.tif"))
    assert not wanted.takes(listed("a.tif", "2026-11-25T08:59:59+00:00"))


SCHEMA = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag, StorageClass"
ROWS = (
    '"lab","a+b%2Fc.tif","v2","true","false","10","2026-11-25T10:00:00.123Z","e1","STANDARD"\n'
    '"lab","a+b%2Fc.tif","v1","false","false","10","2026-11-24T10:00:00.000Z","e0","STANDARD"\n'
    '"lab","gone.tif","v3","true","true","","2026-11-25T10:00:00.000Z","",""\n'
    '"lab","old.tif","v4","true","false","10","2020-01-01T00:00:00.000Z","e4","GLACIER"\n'
)


def manifest(**fields: object) -> bytes:
    told = {
        "sourceBucket": "lab",
        "fileFormat": "CSV",
        "fileSchema": SCHEMA,
        "files": [{"key": "d/1.csv.gz"}],
    }
    return json.dumps(told | fields).encode()


def test_an_inventory_gives_the_newest_versions_with_decoded_keys() -> None:
    files = {"d/1.csv.gz": gzip.compress(ROWS.encode())}
    found = list(read_inventory(files.__getitem__, manifest(), "lab"))
    assert found == [
        Listed(S3Object("lab", "a b/c.tif", "v2", "e1", "2026-11-25T10:00:00+00:00"), 10, archived=False),
        Listed(S3Object("lab", "old.tif", "v4", "e4", "2020-01-01T00:00:00+00:00"), 10, archived=True),
    ]


def test_the_null_version_of_an_inventory_has_no_id_like_that_of_a_listing() -> None:
    files = {"d/1.csv.gz": gzip.compress(ROWS.replace('"v2"', '"null"').encode())}
    first = next(read_inventory(files.__getitem__, manifest(), "lab", versions=True))
    assert (first.object.key, first.object.version_id) == ("a b/c.tif", None)


WHOLE = gzip.compress(ROWS.encode())
LONG = ROWS.replace("old.tif", "x" * 131_073)


@pytest.mark.parametrize(
    "content",
    [
        ROWS.encode(),
        WHOLE[:-20],
        gzip.compress(ROWS.replace("2020-01-01T00:00:00.000Z", "").encode()),
        gzip.compress(ROWS.replace('"10","2020', '"many","2020').encode()),
        gzip.compress(ROWS.replace(',"GLACIER"', "").encode()),
        gzip.compress(b"\xff" + ROWS.encode()),
        gzip.compress(LONG.encode()),
    ],
    ids=["no gzip", "truncated", "no date", "no size", "short row", "no UTF-8", "long field"],
)
def test_a_damaged_file_of_an_inventory_is_named(content: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"^d/1\.csv\.gz of the inventory is damaged: "):
        list(read_inventory({"d/1.csv.gz": content}.__getitem__, manifest(), "lab"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (manifest(files=[{"name": "d/1.csv.gz"}]), "not the manifest.json"),
        (manifest(files="d/1.csv.gz"), "not the manifest.json"),
        (b"no json", "not the manifest.json"),
        (b"[]", "not the manifest.json"),
        (manifest(sourceBucket="other"), "lists s3://other, not s3://lab"),
        (manifest(fileFormat="Parquet"), "in Parquet; configure it to write CSV"),
        (manifest(fileSchema="Bucket, Key"), "lacks ETag, LastModifiedDate, Size"),
    ],
)
def test_an_inventory_that_cannot_be_used_is_refused_with_its_reason(content: bytes, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        list(read_inventory(dict[str, bytes]().__getitem__, content, "lab"))


def test_images_are_batched_without_losing_any() -> None:
    images = [listed(f"{number}.tif") for number in range(23)]
    groups = list(batched(iter(images), 10))
    assert [len(group) for group in groups] == [10, 10, 3]
    assert [image for group in groups for image in group] == images


def test_the_slower_of_work_and_rate_decides_how_long_it_takes() -> None:
    pace = Pace(seconds=0.5, usd=0.0001, at_a_time=5)
    assert pace.hours(36_000, None) == pytest.approx(1)
    assert pace.hours(36_000, 1) == pytest.approx(10)


def test_a_place_is_a_bucket_and_a_prefix() -> None:
    assert split_place("s3://lab/a/b") == ("lab", "a/b")
    assert split_place("s3://lab") == ("lab", "")
    assert split_place("lab/a") == ("", "")


@pytest.mark.parametrize(
    ("theirs", "ours", "meets"),
    [("", "scans/", True), ("scans/", "", True), ("scans/", "scans/p1/", True), ("raw/", "scans/", False)],
)
def test_prefixes_overlap_if_one_begins_with_the_other(theirs: str, ours: str, meets: bool) -> None:
    present = {
        "TopicConfigurations": [
            {
                "Id": "x",
                "TopicArn": "arn:topic",
                "Events": ["s3:ObjectCreated:*"],
                "Filter": {"Key": {"FilterRules": [{"Name": "Prefix", "Value": theirs}]}},
            }
        ]
    }
    assert overlapping(present, ours, "own") == ("arn:topic" if meets else "")


@pytest.mark.parametrize(("event", "target"), [("ObjectRemoved:Delete", "arn:q"), ("ObjectRestore:*", "")])
def test_only_notifications_of_uploads_and_deletions_are_in_the_way(event: str, target: str) -> None:
    present = {"QueueConfigurations": [{"QueueArn": "arn:q", "Events": [f"s3:{event}"]}]}
    assert overlapping(present, "", "own") == target
