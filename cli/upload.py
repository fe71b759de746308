"""`cytomask upload`: upload local images and their ground truths into a stack's buckets."""

from argparse import Namespace
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cytomask.cli.console import complain, say, with_progress
from cytomask.cli.files import SUFFIXES, Found, count_of, describe_passed_over, find_images
from cytomask.cli.options import Commands, Parser, add_command, on_stack

if TYPE_CHECKING:
    from cytomask.cli.stack import Stack

EXAMPLES = (
    "cytomask upload plate/                                 # all images in plate/",
    "cytomask upload plate/ --ground-truth masks/           # also ground truths, to score the masks",
    "cytomask upload a.tif --endpoint-url http://127.0.0.1:4566    # into the stack of `cytomask up`",
)
TRUTH_SUFFIXES = SUFFIXES | {".json"}
NO_TRUTHS = (".probability.png", ".overlay.png", ".result.json")  # no .mask.png: it may be corrected
AT_ONCE = 4
LONGEST_KEY = 1024  # bytes, S3's limit
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Upload:
    """A file, and the address to upload it to."""

    path: Path
    bucket: str
    key: str

    @property
    def uri(self) -> str:
        """The address as `s3://bucket/key`."""
        return f"s3://{self.bucket}/{self.key}"


def add_parser(commands: "Commands[Parser]") -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "upload",
        "upload images, and their ground truths, into a stack's buckets",
        on_stack(run_upload),
        EXAMPLES,
        description="Keys are the paths relative to the given folders. Outputs of cytomask, ._ files of\n"
        "macOS and files without an image's suffix are skipped and counted.",
        on_a_stack=True,
    )
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="images, or folders of them")
    parser.add_argument(
        "--ground-truth",
        nargs="+",
        type=Path,
        default=[],
        metavar="PATH",
        help="masks named like their images, COCO files, or folders of both",
    )


def run_upload(stack: "Stack", arguments: Namespace) -> int:
    """Upload every file, ground truths first; return 1 if any failed, 2 if nothing could be uploaded."""
    truths = find_images(arguments.ground_truth, TRUTH_SUFFIXES, NO_TRUTHS)
    pages = find_images(arguments.paths)
    uploads = [*_uploads(truths, stack.ground_truth_bucket), *_uploads(pages, stack.input_bucket)]
    passed_over = describe_passed_over(truths.passed_over + pages.passed_over)
    faults = find_faults(uploads) if uploads else ["no images were given, or the given folders contain none"]
    if faults:
        for line in filter(None, [*faults, passed_over, "nothing was uploaded"]):
            complain(line)
        return 2
    sent = failed = size = 0
    for upload, outcome in with_progress(_send_all(stack, uploads), len(uploads), "file"):
        if isinstance(outcome, int):
            sent, size = sent + 1, size + outcome
            say(upload.uri)
        else:
            failed += 1
            complain(f"{upload.path}  not sent: {outcome}")
    parts = [f"{count_of(sent, 'file')} uploaded, {size / MEGABYTE:.1f} MB"]
    parts += [f"{failed} not sent"] if failed else []
    complain("; ".join(filter(None, [", ".join(parts), passed_over])))
    return 1 if failed else 0


def find_faults(uploads: Iterable[Upload]) -> list[str]:
    """List what prevents the upload: missing files, and files that would get the same address."""
    uploads = list(uploads)
    sources: dict[str, list[str]] = {}
    for upload in uploads:
        sources.setdefault(upload.uri, []).append(str(upload.path))
    return [f"no such file: {upload.path}" for upload in uploads if not upload.path.exists()] + [
        f"{' and '.join(paths)} would both become {uri}; upload the folder above them"
        for uri, paths in sources.items()
        if len(paths) > 1
    ]


def _uploads(found: Found, bucket: str) -> Iterator[Upload]:
    return (Upload(path, bucket, below.as_posix()) for path, below in found.images)


def _send_all(stack: "Stack", uploads: Iterable[Upload]) -> Iterator[tuple[Upload, int | str]]:
    """Upload files, some at a time; yield each in turn with its size in bytes, or why it failed."""
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        yield from pool.map(
            lambda upload: (upload, send(stack, upload.path, upload.bucket, upload.key)), uploads
        )
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def send(stack: "Stack", path: Path, bucket: str, key: str) -> int | str:
    """Upload a file; return its size in bytes, or why it failed."""
    try:
        length = len(key.encode())
    except UnicodeEncodeError:
        return "its name is not UTF-8, but keys in S3 must be; rename it"
    if length > LONGEST_KEY:
        return f"its key has {length} bytes, but S3 allows {LONGEST_KEY}; upload a folder further down"
    try:
        size = path.stat().st_size
        stack.s3.upload_file(str(path), bucket, key)  # files from 8 MB on are sent in parts
    except OSError as error:
        return error.strerror or str(error)
    return size
