"""`cytomask upload`: upload local images, their plate maps and ground truths into a stack's buckets."""

import os
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cytomask.cli.console import complain, say, with_progress
from cytomask.cli.files import SUFFIXES, Found, count_of, describe_passed_over, find_images
from cytomask.cli.options import Commands, Parser, add_command, on_stack

if TYPE_CHECKING:
    from cytomask.acquisition import Pattern
    from cytomask.cli.stack import Stack

EXAMPLES = (
    "cytomask upload plate/                                 # all images in plate/",
    "cytomask upload plate/ --ground-truth masks/           # also ground truths, to score the masks",
    "cytomask upload a.tif --endpoint-url http://127.0.0.1:4566    # into the stack of `cytomask up`",
)
MAP_SUFFIXES = frozenset({".platemap", ".csv", ".xml", ".txt"})
TRUTH_SUFFIXES = SUFFIXES | {".json"}
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
        "upload images, plate maps and ground truths into a stack's buckets",
        on_stack(run_upload),
        EXAMPLES,
        description="Keys are the paths relative to the given folders. They begin with the folder's name\n"
        "if the images' names need it to tell their plate. Outputs of cytomask, masks beside images, ._\n"
        "files of macOS and other files are skipped and counted.",
        on_a_stack=True,
    )
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="images, or folders of them")
    parser.add_argument(
        "--folder",
        metavar="NAME",
        help="begin all keys with this folder, or with none for ''; default: the given folder's name if the "
        "images' names need it",
    )
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
    truths = find_images(arguments.ground_truth, TRUTH_SUFFIXES, truths=True)
    pages = find_images(arguments.paths, SUFFIXES | MAP_SUFFIXES)
    maps = _take_maps(pages)
    asked = None if arguments.folder is None else arguments.folder.strip("/")
    folders = _folders(stack, pages, asked)
    of_truths = dict.fromkeys(_roots(truths), max(folders.values(), default=asked or ""))
    of_maps = {root: folders.get(root) or asked or root.name for root in _roots(maps)}
    uploads = [
        *_uploads(truths, stack.ground_truth_bucket, of_truths),
        *_uploads(pages, stack.input_bucket, folders),
        *_uploads(maps, stack.input_bucket, of_maps),
    ]
    passed_over = describe_passed_over(truths.passed_over + pages.passed_over)
    faults = find_faults(uploads) if uploads else ["no images were given, or the given folders contain none"]
    if truths.images and len(set(folders.values())) > 1:
        faults.append("the images' keys begin with several folders; upload them one by one, or give --folder")
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
    parts += [f"{count_of(len(maps.images), 'plate map')} among them"] if maps.images else []
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


def folder_needed(root: Path, images: Iterable[Path], pattern: "Pattern | None") -> str:
    """Return the end of a folder's path that keys need to tell plate, well and time; empty if they need none.

    Args:
        root: the folder, absolute.
        images: paths relative to it.
        pattern: the stack's naming pattern.
    """
    from cytomask.acquisition import read_acquisition  # msgspec takes time that `--help` need not wait for

    parents = root.parts[1:]
    deepest = 0
    for image in images:
        ends = [(*parents[len(parents) - depth :], image.as_posix()) for depth in range(len(parents) + 1)]
        told = [read_acquisition("/".join(end), pattern) for end in ends]
        if told[-1].placed:
            deepest = max(deepest, told.index(told[-1]))
    return "/".join(parents[len(parents) - deepest :])


def _take_maps(found: Found) -> Found:
    """Take the plate maps out of the found files; count other files with a suffix of maps as skipped."""
    from cytomask.addresses import is_plate_map, may_be_plate_map

    images, maps = [], Found()
    for path, below in found.images:
        key = f"{_root(path, below).name}/{below.as_posix()}"
        if path.suffix.lower() not in MAP_SUFFIXES:
            images.append((path, below))
        elif is_plate_map(key) or may_be_plate_map(key):
            maps.images.append((path, below))
        else:
            found.passed_over[path.suffix.lower()] += 1
    found.images = images
    return maps


def _root(path: Path, below: Path) -> Path:
    """Return the folder that a file's key is relative to, absolute."""
    return Path(os.path.abspath(path)).parents[len(below.parts) - 1]  # noqa: PTH100  # links stay as given


def _roots(found: Found) -> dict[Path, list[Path]]:
    """Return the folders that keys are relative to, with the paths below each."""
    roots: dict[Path, list[Path]] = {}
    for path, below in found.images:
        roots.setdefault(_root(path, below), []).append(below)
    return roots


def _folders(stack: "Stack", pages: Found, asked: str | None) -> dict[Path, str]:
    """Return the folder that the keys of each root begin with, as asked or as the names need it."""
    roots = _roots(pages)
    if asked is not None:
        return dict.fromkeys(roots, asked)
    pattern = stack.pattern
    return {root: folder_needed(root, images, pattern) for root, images in roots.items()}


def _uploads(found: Found, bucket: str, folders: Mapping[Path, str]) -> Iterator[Upload]:
    for path, below in found.images:
        folder = folders[_root(path, below)]
        yield Upload(path, bucket, f"{folder}/{below.as_posix()}" if folder else below.as_posix())


def _send_all(stack: "Stack", uploads: Iterable[Upload]) -> Iterator[tuple[Upload, int | str]]:
    """Upload files, some at a time; yield each in turn with its size in bytes, or why it failed."""
    with ThreadPoolExecutor(AT_ONCE) as pool:  # whatever ends this, no file is on its way afterwards
        yield from pool.map(
            lambda upload: (upload, send(stack, upload.path, upload.bucket, upload.key)), uploads
        )


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
