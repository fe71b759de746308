"""The CSV of `cytomask segment`: it grows with each page, and lets a stopped run resume."""

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
from cytomask.output_names import OUTPUT_FILES, output_key
from cytomask.requests import Output, Parameters
from cytomask.spreadsheets import csv_line, guard

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
    "orientation",
    "turned",
    "luma",
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
    """The settings that decide the masks of a run: the network and its parameters.

    Attributes:
        parameters: the parameters, with the threshold resolved.
        version: version of the code.
    """

    model: str
    model_sha256: str
    parameters: Parameters
    version: str

    def columns(self) -> dict[str, object]:
        """Return the settings as CSV columns; `pixel_size_um` is the requested one: `0.65` or `0.65x0.7`."""
        asked = {name: getattr(self.parameters, name) for name in ASKED}
        asked["fill_holes"] = int(self.parameters.fill_holes)
        size = self.parameters.pixel_size_um
        asked["pixel_size_um"] = "x".join(map(str, dict.fromkeys(size))) if size else None
        return {"model": self.model, "model_sha256": self.model_sha256, **asked, "version": self.version}


@dataclass(frozen=True)
class Row:
    """A row of the CSV: one page, or a file that was refused.

    Attributes:
        pages: number of pages in the file.
        pixel_width_um, pixel_height_um: size of a pixel from the request or the file; areas are based on it.
        confluence_low, confluence_high: the confluence at thresholds of 0.7 and 0.3, or at the row's own if
            that is above 0.7 or below 0.3.
        quality: quality flags with their numbers, such as `UNCERTAIN=0.42`, separated by spaces.
        orientation: the file's orientation tag, numbered as in EXIF and TIFF: 1 is upright.
        turned: 1 if the page was turned upright by that tag, 0 if its pixels are read as they are stored.
        luma: 1 if red, green and blue were joined to grey, otherwise 0.
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
    orientation: int | None = None
    turned: int | None = None
    luma: int | None = None
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
    """Return the path of each output of a page; pages of a stack have their number in the name."""
    number = page if pages > 1 else None
    return {
        kind: Path(output_key(str(target), ending, number))
        for output in outputs
        for kind, ending in OUTPUT_FILES[output].items()
    }


class Ledger:
    """A CSV that grows during the run; without a path it does nothing.

    If the CSV cannot be written, `fault` says why, and the run continues without it.
    """

    def __init__(self, path: Path | None) -> None:
        """Keep the path; the file is created with its first row."""
        self._path = path
        self._file: BinaryIO | None = None
        self._kept: list[str] = []
        self.lines: list[Mapping[str, Any]] = []  # rows of this run, and rows kept from an earlier one
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
        """Keep the rows of an earlier run that are still valid.

        A file is done if all its pages have a row with the same settings, and outputs newer than the file.

        Args:
            files: each file with the path of its outputs, without their suffix.
            settings: settings of this run.

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
        """Write a row and flush it to the file."""
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
            complain(f"{path} cannot be written: {self.fault}; the run continues without it")

    def _begin(self, path: Path) -> BinaryIO:
        """Write the header and the rows kept from an earlier run atomically; open the file to append."""
        write_whole(path, csv_bytes(csv_line(COLUMNS) + "".join(self._kept)))
        self._file = path.open("ab")
        return self._file


def _read(path: Path) -> dict[str, list[Line]]:
    """Read the rows of an earlier run by file, without a truncated last line; none from another CSV."""
    try:
        if not path.is_file():  # a terminal or a pipe holds no earlier run; reading it would wait forever
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
    except csv.Error:  # a field is longer than any of ours
        return {}
    return rows


def _holding(source: Path, target: Path, lines: Sequence[Line], settings: Settings) -> Sequence[Line]:
    """Return the lines if they prove that the file was done with these settings and its outputs exist."""
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
