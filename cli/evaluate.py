"""`cytomask evaluate`: score the images in a COCO file, or list masks and truths without a partner."""

import re
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from cytomask.cli.console import complain, say
from cytomask.cli.options import Commands, Parser, add_command, on_stack
from cytomask.errors import InvalidRequest, UnreadableCoco

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cytomask.addresses import S3Object
    from cytomask.cli.stack import Stack
    from cytomask.coco_index import IndexingRow

EXAMPLES = (
    "cytomask evaluate --coco livecell_coco_test.json       # score every image that the file names",
    'cytomask evaluate --coco coco.json --images "s3://bucket/plate 1/"    # only images under that address',
    "cytomask evaluate --waiting                            # masks and ground truths without a partner",
)
PREFIX = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?", re.DOTALL)
TIMEOUT_SECONDS = 600
POLL_SECONDS = 0.5


def add_parser(commands: "Commands[Parser]") -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "evaluate",
        "score masks against a COCO file",
        on_stack(lambda stack, given: list_waiting(stack) if given.waiting else run_evaluate(stack, given)),
        EXAMPLES,
        description="Waits until the file is indexed. Existing masks are then scored, and new ones as they\n"
        "are made. With --waiting, lists masks without a ground truth and ground truths without an image.",
        on_a_stack=True,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--coco", metavar="FILE", help="COCO file on this computer, or s3://bucket/key")
    what.add_argument(
        "--waiting",
        action="store_true",
        help="list masks without a ground truth, and ground truths without an image",
    )
    parser.add_argument("--images", metavar="S3PREFIX", help="only images whose address begins with this")


def run_evaluate(stack: "Stack", arguments: Namespace) -> int:
    """Copy the file into the ground-truth bucket and wait until it is indexed.

    Returns 1 if the file is refused or not indexed in time, 2 if the command could not start.
    """
    from cytomask.addresses import is_coco  # msgspec and the layer behind it

    file, images = arguments.coco, arguments.images or ""
    if not is_coco(file):
        complain(f"{file} is not named like a COCO file; rename it to *.json")
        return 2
    if images and not PREFIX.fullmatch(images):
        complain(f'--images: "{images}" is not an S3 address; give the start of one, s3://bucket/…')
        return 2
    try:
        coco = copy_coco(stack, file, images) if file.startswith("s3://") else send_coco(stack, file, images)
    except OSError as error:
        complain(f"{file} cannot be read: {error.strerror}")
        return 2
    except InvalidRequest as error:
        complain(str(error))
        return 2
    except UnreadableCoco as error:
        complain(str(error))
        return 1
    say(f"uploaded {coco.uri}")
    return report_indexing(wait_for_indexing(stack, coco), coco)


def send_coco(stack: "Stack", file: str, images: str) -> "S3Object":
    """Upload a file of this computer after checking it.

    Raises:
        OSError: the file cannot be read.
        UnreadableCoco: the function would refuse it.
    """
    from cytomask.addresses import S3Object
    from cytomask.truths.coco import read_coco, require_few_images  # NumPy and pycocotools
    from cytomask.truths.limits import require_coco_size

    path = Path(file)
    require_coco_size(path.stat().st_size, file)
    content = path.read_bytes()
    require_few_images(read_coco(content, file))
    place = S3Object(stack.ground_truth_bucket, coco_key(path.name, images))
    stack.s3.put_object(Bucket=place.bucket, Key=place.key, Body=content, Metadata=metadata(images))
    return place


def copy_coco(stack: "Stack", uri: str, images: str) -> "S3Object":
    """Copy a file within S3 into the ground-truth bucket; a file already there is copied onto itself.

    Raises:
        InvalidRequest: `uri` is not an address, or the object does not exist.
    """
    from cytomask.addresses import S3Object, parse_uri
    from cytomask.storage import Storage  # boto3 takes half a second

    source = parse_uri(uri, "ground_truth")
    if Storage(stack.s3).find(source) is None:
        raise InvalidRequest(f"there is no {uri}")
    own = source.bucket == stack.ground_truth_bucket and not images
    key = source.key if own else coco_key(source.key.rpartition("/")[2], images)
    place = S3Object(stack.ground_truth_bucket, key)
    stack.s3.copy_object(
        CopySource={"Bucket": source.bucket, "Key": source.key},
        Bucket=place.bucket,
        Key=place.key,
        Metadata=metadata(images),
        MetadataDirective="REPLACE",
    )
    return place


def coco_key(name: str, images: str) -> str:
    """Make the file's key: its name, under the prefix of the images that it is meant for, if any."""
    return f"{images.removeprefix('s3://').rstrip('/')}/{name}" if images else name


def metadata(images: str) -> dict[str, str]:
    """Describe the images that the file is meant for, in ASCII because metadata allows nothing else."""
    return {"images": quote(images)} if images else {}


def wait_for_indexing(stack: "Stack", place: "S3Object") -> "IndexingRow | None":
    """Wait for the upload's row and return it; return None after the timeout."""
    from cytomask.coco_index import CocoIndex
    from cytomask.storage import Storage
    from cytomask.table import Table

    storage, index = Storage(stack.s3), CocoIndex(Table(stack.dynamodb, stack.table))
    coco = storage.find(place)
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while coco and time.monotonic() < deadline:
        row = index.read(coco)
        if row:
            return row
        time.sleep(POLL_SECONDS)
    return None


def report_indexing(row: "IndexingRow | None", coco: "S3Object") -> int:
    """Print the upload's outcome, and return the exit code."""
    if row is None:
        complain(
            f"{coco.uri} was not indexed within {TIMEOUT_SECONDS} s; the evaluate function's log says why"
        )
        return 1
    if row.index_status == "REJECTED":
        complain(f"rejected: {row.error_code}: {row.error}")
        return 1
    say(f"{row.images} images, {row.annotations} annotations")
    for line in describe_leftovers(row):
        say(line)
    say("masks are scored now or as they are made: see `cytomask jobs` and `cytomask report`")
    return 0


def describe_leftovers(row: "IndexingRow") -> list[str]:
    """Describe the images and annotations of a file that get no score, a line for each kind."""
    lines = []
    if row.unmatched:
        some = _some(row.unmatched_names, row.unmatched)
        lines.append(f"{row.unmatched} names match no image in the stack so far: {some}")
    if row.refused:
        some = _some(row.refused_names, row.refused)
        lines.append(
            f"{row.refused} images cannot be scored, because the file lists them without id, width or height,"
            f" with the id of another or in letters that are not UTF-8: {some}"
        )
    if row.images_without_name:
        lines.append(f"{row.images_without_name} images have no file name and are left out")
    if row.images_without_annotations:
        outcome = (
            "are rejected, because theirs may be lost" if row.annotations_without_image else "count as empty"
        )
        lines.append(f"{row.images_without_annotations} images have no annotations and {outcome}")
    if row.annotations_without_image:
        lines.append(
            f"{row.annotations_without_image} annotations belong to images that the file does not list"
        )
    return lines


def _some(names: "Sequence[str]", count: int) -> str:
    more = f" and {count - len(names)} more" if count > len(names) else ""
    return ", ".join(names) + more


def list_waiting(stack: "Stack") -> int:
    """List masks without a ground truth and ground truths without an image; return the exit code."""
    from cytomask.addresses import SIDECARS, is_coco, parse_uri
    from cytomask.cli.rows import Search
    from cytomask.evaluations import AWAITING
    from cytomask.truths.names import image_stems, truth_stems

    jobs = list(stack.rows.jobs(Search(status="SUCCEEDED")))
    evaluations = (row for found in stack.rows.evaluations(jobs) for row in found)
    waiting = {row.image for row in evaluations if row.record == AWAITING and row.image}
    uris = {job.image for job in jobs if job.image}
    stems = {stem for uri in uris for stem in image_stems(parse_uri(uri, "image").key)}
    keys = [key for key in _keys(stack) if Path(key).suffix.lower() not in SIDECARS or is_coco(key)]
    unmatched = [key for key in keys if not is_coco(key) and stems.isdisjoint(truth_stems(key))]
    _list(f"{len(waiting)} masks have no ground truth so far", sorted(waiting))
    _list(
        f"{len(unmatched)} ground truths have no image so far",
        [f"s3://{stack.ground_truth_bucket}/{key}" for key in unmatched],
    )
    for key in filter(is_coco, keys):
        _list_unmatched(stack, key)
    return 0


def _keys(stack: "Stack") -> "Iterator[str]":
    pages = stack.s3.get_paginator("list_objects_v2").paginate(Bucket=stack.ground_truth_bucket)
    return (item["Key"] for page in pages for item in page.get("Contents", []) if item["Key"][-1] != "/")


def _list_unmatched(stack: "Stack", key: str) -> None:
    """Print the names of a COCO file that matched no image when it was indexed."""
    from cytomask.addresses import S3Object
    from cytomask.coco_index import CocoIndex
    from cytomask.storage import Storage
    from cytomask.table import Table

    coco = Storage(stack.s3).find(S3Object(stack.ground_truth_bucket, key))
    row = CocoIndex(Table(stack.dynamodb, stack.table)).read(coco) if coco else None
    if coco and row is None:
        say(f"{coco.uri} is not indexed yet")
    elif coco and row and row.unmatched:
        more = row.unmatched - len(row.unmatched_names)
        _list(
            f"{coco.uri}: {row.unmatched} of {row.images} names matched no image when it was indexed",
            [*row.unmatched_names, *([f"and {more} more"] if more else [])],
        )


def _list(title: str, lines: "Sequence[str]") -> None:
    say(f"{title}{':' if lines else ''}")
    for line in lines:
        say(f"  {line}")
