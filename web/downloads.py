"""Stream downloads: masks, corrected pairs for training, the table of jobs."""

import io
import secrets
import unicodedata
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import Any

from cytomask import images
from cytomask.addresses import S3Object, parse_uri
from cytomask.errors import CytomaskError, GroundTruthMismatch
from cytomask.spreadsheets import csv_line
from cytomask.storage import Storage
from cytomask.truths.masks import read_ground_truth
from cytomask.web.account import Account
from cytomask.web.answers import Refusal
from cytomask.web.catalogue import Entry
from cytomask.web.library import Known, Library, Truth
from cytomask.web.truths import encode_tiff

KINDS = ("masks", "pairs", "table")
MISSING = "missing.txt"  # the file of an archive that lists what is not in it
MOST_TICKETS = 32
NO_PAIR = "none of these images has a ground truth yet: correct their masks on the page, and save them"
COLUMNS = (
    "image", "group", "status", "confluence", "confluence_low", "confluence_high", "quality", "iou", "pages",
    "cell_area_mm2", "plate", "well", "created_at", "job_id", "estimated_cost_usd", "error_code", "error",
)  # fmt: skip


@dataclass(frozen=True)
class Ticket:
    """A download: a kind and job ids."""

    kind: str
    ids: Sequence[str]


class Tickets:
    """Downloads that were asked for. The ids of ten thousand jobs do not fit into an address."""

    def __init__(self) -> None:
        """Begin without any."""
        self._kept: OrderedDict[str, Ticket] = OrderedDict()

    def add(self, kind: str, ids: Sequence[str]) -> str:
        """Note a download; return its name."""
        if kind not in KINDS or not ids:
            raise Refusal(HTTPStatus.BAD_REQUEST, "INVALID_REQUEST", f"choose one of {', '.join(KINDS)}")
        name = secrets.token_urlsafe(16)
        self._kept[name] = Ticket(kind, ids)
        while len(self._kept) > MOST_TICKETS:
            self._kept.popitem(last=False)
        return name

    def find(self, name: str) -> Ticket:
        """Find a download by its name; raise Refusal."""
        try:
            return self._kept[name]
        except KeyError:
            raise Refusal(HTTPStatus.NOT_FOUND, "NO_DOWNLOAD", "ask for the download again") from None


class Archive:
    """Zip archives made file by file."""

    def __init__(self, account: Account, library: Library) -> None:
        """Read with the account's rights."""
        self._storage = Storage(account.s3)
        self._library = library
        self._output_bucket = account.output_bucket

    def masks(self, ids: Iterable[str]) -> Iterator[bytes]:
        """Make a zip of every page's mask under its key; `missing.txt` lists those that are gone."""
        return _zipped(self._masks(ids))

    def pairs(self, ids: Iterable[str]) -> Iterator[bytes]:
        """Make a zip of `images/` and `masks/`: images and their ground truths under the same names.

        An image of several channels is stored as the channel that was segmented, for training reads no other.
        `missing.txt` lists the images whose ground truth cannot be used, and why, or says that there is none.
        """
        return _zipped(self._pairs(ids))

    def _masks(self, ids: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        missing = []
        names: set[str] = set()
        for job_id in ids:
            try:
                known = self._library.known(job_id)
            except (Refusal, CytomaskError) as error:
                missing.append(f"{job_id}: {error}")
                continue
            for page in known.result.pages:
                place = parse_uri(page.mask, "mask") if page.mask else None
                if place is None or place.bucket != self._output_bucket:
                    continue
                body = self._storage.read_output(place.bucket, place.key)
                if body is None:
                    missing.append(f"{job_id}: its mask is gone")
                else:
                    yield unused(safe_name(place.key), names, ".mask.png"), body
        yield from _notes(missing)

    def _pairs(self, ids: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        missing: list[tuple[Truth | None, str]] = []
        truths: set[S3Object] = set()
        names: set[str] = set()
        for job_id in ids:
            truth: Truth | None = None
            try:
                known = self._library.known(job_id)
                truth = self._library.truth(known)
                if truth is None or truth.found in truths:
                    continue
                image, suffix, cells = self._pair(known, truth.found)
            except (Refusal, CytomaskError) as error:
                missing.append((truth, f"{job_id}: {error}"))
                continue
            truths.add(truth.found)
            name = unused(safe_name(str(PurePosixPath(known.image.key).with_suffix(""))), names)
            yield f"images/{name}{suffix}", image
            yield f"masks/{name}{'.png' if cells[:4] == PNG else '.tif'}", cells
        lines = [line for truth, line in missing if truth is None or truth.found not in truths]
        yield from _notes(lines or ([] if names else [NO_PAIR]))

    def _pair(self, known: Known, truth: S3Object) -> tuple[bytes, str, bytes]:
        """Read an image, its suffix and its truth; raise RejectedInput if training would refuse them."""
        content, cells = self._read(known.source), self._read(truth)
        suffix = PurePosixPath(known.image.key).suffix
        channel = known.result.parameters.channel if known.result.parameters else None
        with images.open_image(content, known.source.uri) as image:
            sizes = [(page.height, page.width) for page in image.pages]
            pages = [page.pixels for page in images.read_pages(image, range(len(sizes)), channel)]
        for page, mask in zip(pages, read_ground_truth(cells, truth.uri, sizes, images.LIMITS), strict=True):
            if page.shape != mask.shape:
                raise GroundTruthMismatch(f"{truth.uri} has not the size of the image, turned upright")
        if channel is not None:
            content, suffix = encode_tiff(pages), ".tif"
        return content, suffix, cells

    def _read(self, found: S3Object) -> bytes:
        return self._storage.read_image(found, images.LIMITS)


PNG = b"\x89PNG"


def table_of(entries: Iterable[Entry]) -> Iterator[bytes]:
    """Make a CSV, a job a row. Text that a spreadsheet would read as a formula gets an apostrophe."""
    yield csv_line(COLUMNS).encode()
    for entry in entries:
        yield csv_line(_values(entry)).encode()


def _values(entry: Entry) -> list[Any]:
    return [
        entry.key, entry.group, entry.status, entry.confluence, entry.low, entry.high,
        " ".join(entry.quality), entry.iou, entry.pages, entry.area, entry.plate, entry.well,
        entry.created, entry.id, entry.cost, entry.error_code, entry.error,
    ]  # fmt: skip


def safe_name(key: str) -> str:
    """Turn a key into a path that cannot leave the folder into which an archive is unpacked."""
    parts = [part.replace("\\", "_").replace(":", "_") for part in key.split("/")]
    return "/".join(part for part in parts if part not in ("", ".", "..")) or "image"


def unused(name: str, taken: set[str], ending: str = "") -> str:
    """Return the name, with a number before its ending if it is taken, and note it.

    `a.tif` and `a.png` have one stem. Many disks take `A` and `a` for one name, and so `ü` as one letter or
    as two.
    """
    stem = name.removesuffix(ending)
    chosen, number = name, 1
    while _on_disk(chosen) in taken:
        number += 1
        chosen = f"{stem}-{number}{ending}"
    taken.add(_on_disk(chosen))
    return chosen


def _on_disk(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _notes(missing: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    if missing:
        yield MISSING, "\n".join([*missing, ""]).encode()


class _Pipe(io.RawIOBase):
    """A file that only grows, whose bytes are taken out as they come."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


def _zipped(files: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    """Make a zip archive in pieces; its files are compressed images and are stored as they are."""
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as archive:
        for name, body in files:
            archive.writestr(zipfile.ZipInfo(name), body)
            yield pipe.take()
    yield pipe.take()
