"""`cytomask evaluate`: a COCO file becomes the ground truth of every image that it names."""

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
    from cytomask.cli.stack import Stack
    from cytomask.coco_index import IndexingRow
    from cytomask.requests import S3Object

EXAMPLES = (
    "cytomask evaluate --coco livecell_coco_test.json       # score every image that the file names",
    'cytomask evaluate --coco coco.json --images "s3://bucket/plate 1/"    # only images below that address',
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
        on_stack(run_evaluate),
        EXAMPLES,
        description="Waits until the file is indexed. The masks are then scored as they come.",
        on_a_stack=True,
    )
    parser.add_argument("--coco", required=True, metavar="FILE", help="on this computer, or s3://bucket/key")
    parser.add_argument("--images", metavar="S3PREFIX", help="only images whose address begins so")


def run_evaluate(stack: "Stack", arguments: Namespace) -> int:
    """Brings the file into the ground-truth bucket and waits until it is indexed.

    Returns 1 where it is refused or nobody indexes it, 2 where nothing could be begun.
    """
    from cytomask.requests import is_coco  # msgspec and the layer behind it

    file, images = arguments.coco, arguments.images or ""
    if not is_coco(file):
        complain(f"{file} is no COCO file by its name; call it *.json")
        return 2
    if images and not PREFIX.fullmatch(images):
        complain(f'--images: "{images}" is no S3 address; give the start of one, s3://bucket/…')
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
    """Uploads a file of this machine's, after a look at it.

    Raises:
        OSError: the file cannot be read.
        UnreadableCoco: the function would refuse it.
    """
    from cytomask.requests import S3Object
    from cytomask.truths.coco import read_coco  # NumPy and pycocotools
    from cytomask.truths.limits import require_coco_size

    path = Path(file)
    require_coco_size(path.stat().st_size, file)
    content = path.read_bytes()
    read_coco(content, file)
    place = S3Object(stack.ground_truth_bucket, coco_key(path.name, images))
    stack.s3.put_object(Bucket=place.bucket, Key=place.key, Body=content, Metadata=metadata(images))
    return place


def copy_coco(stack: "Stack", uri: str, images: str) -> "S3Object":
    """Copies a file that is in S3 to where it is noticed; one that lies there is noticed again.

    Raises:
        InvalidRequest: `uri` is no address, or nothing is there.
    """
    from cytomask.requests import S3Object, parse_uri
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
    """The file's key: its name, below the prefix that it is narrowed to, so that no other prefix has it."""
    return f"{images.removeprefix('s3://').rstrip('/')}/{name}" if images else name


def metadata(images: str) -> dict[str, str]:
    """What the object says of the images that it is meant for; metadata is ASCII."""
    return {"images": quote(images)} if images else {}


def wait_for_indexing(stack: "Stack", place: "S3Object") -> "IndexingRow | None":
    """What became of the upload; None where nothing has in time."""
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
    """Says what became of the upload, and returns the exit code."""
    if row is None:
        complain(
            f"{coco.uri} is not indexed after {TIMEOUT_SECONDS} s; the log of the evaluate function says why"
        )
        return 1
    if row.index_status == "REJECTED":
        complain(f"rejected: {row.error_code}: {row.error}")
        return 1
    say(f"{row.images} images, {row.annotations} annotations")
    if row.annotations_without_image:
        say(f"{row.annotations_without_image} of these belong to images that the file does not list")
    say("their masks are scored as they come: see `cytomask jobs` and `cytomask report`")
    return 0
