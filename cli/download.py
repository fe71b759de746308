"""`cytomask download`: masks, results and other outputs of jobs, into a folder."""

import os
from argparse import Namespace
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from cytomask.cli.console import complain, say, with_progress
from cytomask.cli.files import count_of, find_clashes
from cytomask.cli.options import Commands, Parser, add_command, moment, on_stack

if TYPE_CHECKING:
    from cytomask.cli.stack import Stack

EXAMPLES = (
    "cytomask download d4adc4fe --out masks                 # the outputs of one job",
    "cytomask download --group HeLa --since 1d --out masks  # jobs of a group since yesterday",
    'cytomask download --prefix "plate 1/" --out masks      # all images whose key begins with this',
)
KINDS = {
    "mask": ".mask.png",
    "probability": ".probability.png",
    "overlay": ".overlay.png",
    "rois": ".rois.zip",
    "geojson": ".geojson",
    "labels": ".labels.tif",
    "labels_table": ".labels.csv",
    "ome": ".mask.ome.tif",
    "result": ".result.json",
}
AT_ONCE = 8


@dataclass(frozen=True)
class Output:
    """An object in the output bucket, and the file that it becomes."""

    bucket: str
    key: str
    path: Path


def add_parser(commands: "Commands[Parser]") -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "download",
        "fetch masks and results into a folder",
        on_stack(run_download),
        EXAMPLES,
        description="Files are named by their keys in the output bucket. Files that exist and have not\n"
        "changed are not fetched again.",
        on_a_stack=True,
    )
    parser.add_argument("ids", nargs="*", metavar="ID", help="ids of jobs, or their first digits")
    parser.add_argument(
        "--prefix",
        metavar="KEY",
        help="beginning of the images' keys in the input bucket, or s3://bucket/key in any input bucket",
    )
    parser.add_argument("--group", metavar="G", help="jobs of this group")
    parser.add_argument("--since", type=moment, metavar="TIME", help="with --group: only jobs since then")
    parser.add_argument("--out", type=Path, default=Path("masks"), metavar="DIR", help="default: masks")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=tuple(KINDS),
        metavar="KIND",
        help=f"only these kinds: {', '.join(KINDS)}; default: all",
    )


def run_download(stack: "Stack", arguments: Namespace) -> int:
    """Fetch every requested output; return 1 if none exists or one fails, 2 for wrong usage."""
    ways = [bool(arguments.ids), arguments.prefix is not None, arguments.group is not None]
    if sum(ways) != 1 or (arguments.since and arguments.group is None):
        complain("give the ids of jobs, --prefix, or --group with or without --since")
        return 2
    if arguments.prefix and _name(stack, arguments.prefix) is None:
        complain(
            f"--prefix {arguments.prefix} is not in an input bucket of the stack; give "
            f"s3://{stack.input_bucket}/…, the address of an attached bucket, or only the key"
        )
        return 2
    endings = tuple(KINDS[kind] for kind in arguments.only or KINDS)
    found = sorted({place for place in _places(stack, arguments) if place[1].endswith(endings)})
    outputs = [Output(bucket, key, local_path(arguments.out, key)) for bucket, key in found]
    if not outputs:
        complain("there is nothing to download; `cytomask jobs` shows which jobs have a mask")
        return 1
    clashes = find_clashes((Path(output.key), output.path) for output in outputs)
    for path, keys in clashes.items():
        complain(f"{' and '.join(map(str, keys))} would both become {path}; download them apart")
    if clashes:
        return 2
    fetched = kept = failed = 0
    for output, fault in with_progress(_fetch_all(stack, outputs), len(outputs), "file"):
        if fault:
            complain(f"s3://{output.bucket}/{output.key}  not fetched: {fault}")
        else:
            say(str(output.path))
        failed, kept, fetched = failed + bool(fault), kept + (fault is None), fetched + (fault == "")
    parts = [f"{count_of(fetched, 'file')} fetched"]
    parts += [f"{kept} there already"] if kept else []
    parts += [f"{failed} not fetched"] if failed else []
    complain(f"{', '.join(parts)}; they are in {arguments.out}")
    return 1 if failed else 0


def local_path(folder: Path, key: str) -> Path:
    """Return the path in a folder for a key.

    A part of the key that would lead out of the folder, or that is no valid file name, is percent-encoded.
    """
    return folder.joinpath(*map(_file_name, key.split("/")))


def _file_name(part: str) -> str:
    if part in ("", ".", ".."):
        return quote(part, safe="").replace(".", "%2E") or "%"
    return part.replace("\0", "%00").replace("\\", "%5C") if os.sep == "/" else quote(part, safe=" ()+,;=@")


def _places(stack: "Stack", arguments: Namespace) -> Iterator[tuple[str, str]]:
    """Yield bucket and key of every requested output."""
    if arguments.prefix is not None:
        yield from _below(stack, arguments.prefix)
        return
    from cytomask.cli.rows import Search  # boto3 takes half a second

    if arguments.group is not None:
        for row in stack.rows.jobs(Search(group=arguments.group, since=arguments.since)):
            yield from _outputs_of(stack, row.result)
    for each in arguments.ids:
        found = stack.rows.of(stack.find_job(each))
        if found:
            yield from _outputs_of(stack, found[0].result)


def _below(stack: "Stack", prefix: str) -> Iterator[tuple[str, str]]:
    """Yield the outputs of images whose key begins with the prefix."""
    name = _name(stack, prefix) or ""
    pages = stack.s3.get_paginator("list_objects_v2").paginate(Bucket=stack.output_bucket, Prefix=name)
    for page in pages:
        for found in page.get("Contents", []):
            if not found["Key"].startswith("jobs/"):
                yield stack.output_bucket, found["Key"]


def _name(stack: "Stack", prefix: str) -> str | None:
    """Turn a prefix of image keys into a prefix of output names; None if it is not of this stack."""
    if not prefix.startswith("s3://"):
        return prefix
    bucket, _, key = prefix.removeprefix("s3://").partition("/")
    if bucket == stack.input_bucket:
        return key
    return f"{bucket}/{key}" if bucket in stack.allowed_buckets else None


def _outputs_of(stack: "Stack", uri: str | None) -> Iterator[tuple[str, str]]:
    """Yield a job's outputs, from its result, and the result itself."""
    from cytomask.addresses import parse_uri
    from cytomask.cli.rows import read_result  # boto3 takes half a second
    from cytomask.storage import Storage

    result = read_result(Storage(stack.s3), uri)
    if result is None:
        return
    written = [uri, *(output for page in result.pages for output in page.outputs())]
    for place in (parse_uri(output, "result") for output in written if output):
        yield place.bucket, place.key


def _fetch_all(stack: "Stack", outputs: Iterable[Output]) -> Iterator[tuple[Output, str | None]]:
    with ThreadPoolExecutor(AT_ONCE) as pool:  # whatever ends this, no file is on its way afterwards
        yield from pool.map(lambda output: (output, _fetch(stack, output)), outputs)


def _fetch(stack: "Stack", output: Output) -> str | None:
    """Fetch an object; return the reason if that failed, an empty text if not, None if it exists already."""
    from botocore.exceptions import ClientError

    from cytomask.cli.stack import refusal

    partial = output.path.with_name(f"{output.path.name}.partial")
    try:
        head = stack.s3.head_object(Bucket=output.bucket, Key=output.key)
        modified = head["LastModified"].timestamp()
        if output.path.is_file():
            there = output.path.stat()
            if (there.st_size, there.st_mtime) == (head["ContentLength"], modified):
                return None
        output.path.parent.mkdir(parents=True, exist_ok=True)
        stack.s3.download_file(output.bucket, output.key, str(partial))
        os.utime(partial, (modified, modified))
        partial.replace(output.path)
    except OSError as error:
        return error.strerror or str(error)
    except ClientError as error:
        return refusal(error)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    return ""
