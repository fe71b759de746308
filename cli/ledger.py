"""The CSV of `cytomask segment`: it grows with each page, and a run that was stopped goes on from it."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from cytomask.cli.console import complain
from cytomask.cli.files import write_whole
from cytomask.cli.tables import csv_bytes
from cytomask.errors import CytomaskError
from cytomask.requests import Output, Parameters
from cytomask.spreadsheets import csv_line, guard
from cytomask.work import OUTPUT_FILES, output_key

COLUMNS = (
    "file",
    "page",
    "pages",
    "height",
    "width",
    "pixel_width_um",
    "pixel_height_um",
    "cell_pixels",
    "cell_area_um2",
    "cell_area_mm2",
    "confluence",
    "confluence_low",
    "confluence_high",
    "quality",
    "milliseconds",
    "mask",
    "model",
    "model_sha256",
    "mode",
    "threshold",
    "channel",
    "min_size_px",
    "min_size_um2",
    "fill_holes",
    "pixel_size_um",
    "version",
    "error_code",
    "error",
)
ASKED = ("mode", "threshold", "channel", "min_size_px", "min_size_um2", "fill_holes")
Line = Mapping[str, str]


@dataclass(frozen=True)
class Settings:
    """What decides the masks of a run: the network, and how it is asked.

    Attributes:
        parameters: how it is asked; the threshold is settled.
        version: of the code.
    """

    model: str
    model_sha256: str
    parameters: Parameters
    version: str

    def columns(self) -> dict[str, object]:
        """Return their columns of the CSV; `pixel_size_um` is the requested one, as `0.65` or `0.65x0.7`."""
        asked = {name: getattr(self.parameters, name) for name in ASKED}
        asked["fill_holes"] = int(self.parameters.fill_holes)
        size = self.parameters.pixel_size_um
        asked["pixel_size_um"] = "x".join(map(str, dict.fromkeys(size))) if size else None
        return {"model": self.model, "model_sha256": self.model_sha256, **asked, "version": self.version}


@dataclass(frozen=True)
class Row:
    """What the CSV says of one page, or of a file that was refused.

    Attributes:
        pages: how many the file has.
        pixel_width_um, pixel_height_um: size of a pixel, as the request or the file says; areas follow it.
        confluence_low, confluence_high: the confluence at a probability of 0.7 and of 0.3.
        quality: doubts about the mask with their numbers, as `UNCERTAIN=0.42`, with spaces between them.
    """

    file: str
    page: int | None = None
    pages: int | None = None
    height: int | None = None
    width: int | None = None
    pixel_width_um: float | None = None
    pixel_height_um: float | None = None
    cell_pixels: int | None = None
    cell_area_um2: float | None = None
    cell_area_mm2: float | None = None
    confluence: float | None = None
    confluence_low: float | None = None
    confluence_high: float | None = None
    quality: str = ""
    milliseconds: float | None = None
    mask: str | None = None
    settings: Settings | None = None
    error_code: str | None = None
    error: str | None = None

    def line(self) -> str:
        """Write the row as a line of the CSV."""
        values = vars(self) | (self.settings.columns() if self.settings else {})
        return csv_line(values[name] for name in COLUMNS)


def outputs_of(target: Path, page: int, pages: int, outputs: Iterable[Output]) -> dict[str, Path]:
    """Return where each file of a page goes; of a stack each page has its number in the name."""
    number = page if pages > 1 else None
    return {
        kind: Path(output_key(str(target), ending, number))
        for output in outputs
        for kind, ending in OUTPUT_FILES[output].items()
    }


class Ledger:
    """A CSV that grows while the run goes on; without a path it does nothing.

    A CSV that cannot be written costs no mask: `fault` says why, and the run goes on.
    """

    def __init__(self, path: Path | None) -> None:
        """Open nothing yet: the file is made with its first row."""
        self._path = path
        self._file: BinaryIO | None = None
        self._kept: list[str] = []
        self.lines: list[Mapping[str, Any]] = []  # of this run, and those kept from an earlier one
        self.fault = ""

    def __enter__(self) -> "Ledger":
        """Return the ledger itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        if self._file:
            self._file.close()

    def resume(self, files: Iterable[tuple[Path, Path]], settings: Settings) -> set[Path]:
        """Keep the rows of an earlier run that still hold.

        A file is done if all its pages have a row with the same settings, and outputs that are younger than
        the file.

        Args:
            files: each file with the path of its outputs except for their ending.
            settings: of this run.

        Returns:
            The files that need not be segmented again.
        """
        earlier = _read(self._path) if self._path else {}
        done = set()
        for source, target in files if earlier else ():
            lines = _holding(source, target, earlier.get(str(guard(str(source))), []), settings)
            if lines:
                done.add(source)
                self._kept += [csv_line(line[name] for name in COLUMNS) for line in lines]
                self.lines += lines
        if self._path and self._kept:
            self._try_to(lambda path: self._begin(path).flush(), self._path)
        return done

    def add(self, row: Row) -> None:
        """Write a row, through to the file."""
        self.lines.append(vars(row) | (row.settings.columns() if row.settings else {}))

        def write(path: Path) -> None:
            file = self._file or self._begin(path)
            file.write(csv_bytes(row.line()))
            file.flush()

        if self._path and not self.fault:
            self._try_to(write, self._path)

    def _try_to(self, act: Callable[[Path], None], path: Path) -> None:
        try:
            act(path)
        except OSError as error:
            self.fault = error.strerror or str(error)
            complain(f"{path} cannot be written: {self.fault}; the masks are made without it")

    def _begin(self, path: Path) -> BinaryIO:
        """Write the head and the lines kept from an earlier run atomically, and append after them."""
        write_whole(path, csv_bytes(csv_line(COLUMNS) + "".join(self._kept)))
        self._file = path.open("ab")
        return self._file


def _read(path: Path) -> dict[str, list[Line]]:
    """The rows of an earlier run by their file; a line that a kill has cut off, or another CSV, has none."""
    try:
        if not path.is_file():  # a terminal or a pipe has no earlier run, and reading it would wait for ever
            return {}
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return {}
    whole = text[: text.rfind("\n") + 1]
    rows: dict[str, list[Line]] = {}
    reader = csv.DictReader(io.StringIO(whole, newline=""))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        return {}
    try:
        for row in reader:
            if None not in row and None not in row.values():
                rows.setdefault(row["file"], []).append(row)
    except csv.Error:  # a field longer than any of ours
        return {}
    return rows


def _holding(source: Path, target: Path, lines: Sequence[Line], settings: Settings) -> Sequence[Line]:
    """The lines, if they show that the file was done with these settings and its outputs are there."""
    deciding = {
        name: str(guard("" if value is None else value)) for name, value in settings.columns().items()
    }
    if not lines or any(line["error_code"] or not deciding.items() <= line.items() for line in lines):
        return []
    try:
        pages = int(lines[0]["pages"])
        seen = {int(line["page"]): line for line in lines}
        wanted = settings.parameters.selected(pages, str(source))
        changed = source.stat()
        newest = max(changed.st_mtime, changed.st_ctime)
        written = [
            path
            for page in wanted
            for path in outputs_of(target, page, pages, settings.parameters.outputs).values()
        ]
        if all(page in seen for page in wanted) and all(path.stat().st_mtime >= newest for path in written):
            return [seen[page] for page in wanted]
    except (OSError, ValueError, CytomaskError):
        return []
    return []
