"""`cytomask upload`: local images, and their ground truths, into a stack's buckets."""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cytomask.cli.stack import Stack

IMAGES = frozenset({".tif", ".tiff", ".png", ".jpg", ".jpeg"})
GROUND_TRUTHS = IMAGES | {".json"}


@dataclass(frozen=True)
class Upload:
    """A file, and the address that it gets."""

    path: Path
    bucket: str
    key: str

    @property
    def uri(self) -> str:
        """As `s3://bucket/key`."""
        return f"s3://{self.bucket}/{self.key}"


def run_upload(stack: Stack, arguments: argparse.Namespace) -> int:
    """Uploads every file, ground truths first; 2 if nothing could be begun."""
    uploads = find_uploads(arguments.ground_truth, stack.ground_truth_bucket, GROUND_TRUTHS)
    uploads += find_uploads(arguments.paths, stack.input_bucket, IMAGES)
    faults = find_faults(uploads)
    if not uploads:
        faults = ["no images were named, or none lie below the folders named"]
    if faults:
        print(*faults, "nothing was uploaded", sep="\n", file=sys.stderr)
        return 2
    for upload in uploads:
        stack.s3.upload_file(str(upload.path), upload.bucket, upload.key)
        print(upload.uri, flush=True)
    return 0


def find_uploads(paths: Iterable[Path], bucket: str, suffixes: Iterable[str]) -> list[Upload]:
    """Files under their own names, and of folders what has one of the suffixes, under its path below them."""
    uploads = []
    for path in paths:
        if not path.is_dir():
            uploads.append(Upload(path, bucket, path.name))
            continue
        for file in sorted(path.rglob("*")):
            if file.suffix.lower() in suffixes and file.is_file():
                uploads.append(Upload(file, bucket, file.relative_to(path).as_posix()))
    return uploads


def find_faults(uploads: Iterable[Upload]) -> list[str]:
    """What stands in the way: files that are not there, and files that would get one address."""
    faults = [f"no such file: {upload.path}" for upload in uploads if not upload.path.is_file()]
    sources = defaultdict(list)
    for upload in uploads:
        sources[upload.uri].append(str(upload.path))
    return faults + [
        f"{' and '.join(paths)} would both become {uri}; upload the folder above them"
        for uri, paths in sources.items()
        if len(paths) > 1
    ]
