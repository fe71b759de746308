"""The work of `cytomask segment`: read, segment, write and report, page by page."""

import errno
import time
import warnings
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from threading import Event
from typing import Any

from cytomask import __version__, images
from cytomask.cli.console import OutputClosed, complain, printable, say, with_progress
from cytomask.cli.files import (
    MICROSCOPES,
    PLATE_MAP,
    SUFFIXES,
    count_of,
    describe_passed_over,
    find_clashes,
    find_images,
    is_same_file,
    write_whole,
)
from cytomask.cli.ledger import Ledger, Row, Settings, outputs_of
from cytomask.cli.tables import flag_text
from cytomask.errors import CytomaskError, InvalidRequest
from cytomask.lengths import UM2_A_MM2, PixelSize
from cytomask.model.predictor import Clean, Predictor, cores
from cytomask.outputs import encode_files
from cytomask.requests import Output, Parameters, parse_fields
from cytomask.work import resolve

AT_ONCE = 4
FIELDS = (
    "threshold",
    "mode",
    "pages",
    "channel",
    "min_size_px",
    "min_size_um2",
    "fill_holes",
    "pixel_size_um",
)


@dataclass(frozen=True)
class Task:
    """A file to read, and the path of its outputs without their suffix."""

    source: Path
    target: Path


def segment_paths(arguments: Namespace, predictor: Predictor) -> int:
    """Segment every file; return 1 if any was refused, 2 if the command could not start.

    Raises:
        WeightsError: the weights are missing; nothing was written.
        InvalidPlateMap: the plate map is unusable; nothing was read.
    """
    try:
        settings = settings_of(arguments, predictor)
    except InvalidRequest as error:
        complain(str(error))
        return 2
    found = find_images(arguments.paths, SUFFIXES | _readable_microscopes())
    _complain_if(_missing_readers(found.passed_over))
    tasks = [Task(source, arguments.out / below) for source, below in found.images]
    clashes = find_clashes((task.source, task.target) for task in tasks)
    for target, sources in clashes.items():
        complain(f"{' and '.join(map(str, sources))} would both write {target}.mask.png")
    if clashes:
        complain("nothing was read: give them different names, or segment them separately")
        return 2
    if not tasks:
        complain(f"no images ({', '.join(sorted(SUFFIXES))}) in {', '.join(map(str, arguments.paths))}")
        _complain_if(describe_passed_over(found.passed_over))
        return 2
    if arguments.csv and any(is_same_file(task.source, arguments.csv) for task in tasks):
        complain(f"nothing was read: --csv {arguments.csv} would overwrite an image; name another file")
        return 2
    plate_map = None
    if arguments.plate is not None:
        from cytomask.cli.local_plate import read_fitting_map

        plate_map = read_fitting_map((task.source for task in tasks), arguments)
        if plate_map is None and found.passed_over[PLATE_MAP]:
            complain("a plate map lies beside the images; name it with --map to use it")
    with Ledger(arguments.csv) as ledger:
        done = ledger.resume(((task.source, task.target) for task in tasks), settings)
        open_tasks = [task for task in tasks if task.source not in done]
        _complain_if(_resumed(len(done), arguments.csv))
        try:
            summary = _segment_all(open_tasks, predictor, settings, ledger)
        except OutputClosed:
            complain("stopped: the reader of the output has closed it")
            raise
    if len(tasks) > 1 or found.passed_over:
        complain(summary.line(len(done), found.passed_over))
    if ledger.fault:
        complain(f"{arguments.csv} was not written: {ledger.fault}")
    code = 1 if summary.refused or ledger.fault else 0
    if arguments.plate is None:
        return code
    from cytomask.cli.local_plate import report_plates

    return max(code, report_plates(ledger.lines, arguments, plate_map))


def settings_of(arguments: Namespace, predictor: Predictor) -> Settings:
    """Return the settings that affect the masks; raise InvalidRequest if they contradict each other."""
    manifest = predictor.manifests[arguments.mode]
    outputs: list[Output] = ["mask", "overlay"] if arguments.overlay else []
    given = {name: getattr(arguments, name) for name in FIELDS}
    asked = parse_fields({name: value for name, value in given.items() if value is not None})
    return Settings(
        model=manifest.name,
        model_sha256=manifest.sha256,
        parameters=replace(
            resolve(asked, manifest.threshold), outputs=tuple(sorted({*arguments.outputs, *outputs}))
        ),
        version=__version__,
    )


@dataclass
class Summary:
    """The outcome of one run."""

    files: int = 0
    refused: int = 0
    pages: int = 0
    flagged: int = 0
    confluence: float = 0.0
    started: float = 0.0

    def add(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Count a file's rows and yield them."""
        self.files += 1
        for row in rows:
            if row.error:
                self.refused += 1
            else:
                self.pages += 1
                self.flagged += bool(row.quality)
                self.confluence += row.confluence or 0.0
            yield row

    def line(self, done_before: int, passed_over: Counter[str]) -> str:
        """Summarise the run in one line."""
        parts = [f"{count_of(self.files, 'image')}, {count_of(self.pages, 'page')} segmented"]
        if self.refused:
            parts.append(f"{self.refused} refused")
        if self.flagged:
            parts.append(f"{count_of(self.flagged, 'page')} with a quality flag")
        if done_before:
            parts.append(f"{done_before} done before")
        if self.pages:
            parts.append(f"mean confluence {self.confluence / self.pages:.3f}")
        parts.append(f"{time.perf_counter() - self.started:.1f} s")
        return "; ".join([", ".join(parts), *filter(None, [describe_passed_over(passed_over)])])


def _segment_all(tasks: Sequence[Task], predictor: Predictor, settings: Settings, ledger: Ledger) -> Summary:
    summary = Summary(started=time.perf_counter())
    for rows in with_progress(segment_files(tasks, predictor, settings), len(tasks), "image"):
        for row in summary.add(rows):
            ledger.add(row)
            _say_row(row)
    return summary


def segment_files(tasks: Sequence[Task], predictor: Predictor, settings: Settings) -> Iterator[Iterable[Row]]:
    """Yield the rows of each file in turn; while one file is read, the network segments another.

    As many files are processed at a time as there are cores, but at most `AT_ONCE`, because each may hold a
    page of a gigabyte. The rows of a single file come page by page.
    """
    if len(tasks) == 1:
        yield segment_file(tasks[0], predictor, settings)
        return
    stopped = Event()

    def segment(task: Task) -> list[Row]:
        return list(takewhile(lambda _: not stopped.is_set(), segment_file(task, predictor, settings)))

    # Readers turn warnings off around each page, but Python's filters apply to the whole process.
    with warnings.catch_warnings(), ThreadPoolExecutor(min(cores(), AT_ONCE)) as pool:
        warnings.simplefilter("ignore")
        try:
            yield from pool.map(segment, tasks)
        finally:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)


def segment_file(task: Task, predictor: Predictor, settings: Settings) -> Iterator[Row]:
    """Segment and write every page of a file; if the file is refused, the last row says so."""
    name, asked = str(task.source), settings.parameters
    try:
        if task.source.exists() and not task.source.is_file():
            raise OSError(errno.EINVAL, "not a plain file", name)
        with _open(task.source) as image:
            pages = len(image.pages)
            wanted = asked.selected(pages, name)
            started = time.perf_counter()
            for page in images.read_pages(image, wanted, asked.channel):
                pixel_size = PixelSize.chosen(asked.pixel_size_um, image.pages[page.index].pixel_size)
                clean = _cleaner(asked, pixel_size, name)
                prediction = predictor.predict(page.pixels, asked.mode, asked.threshold)
                prediction = prediction.cleaned(clean) if clean else prediction
                written = outputs_of(task.target, page.index, pages, asked.outputs)
                files = encode_files(
                    asked.outputs,
                    pixels=page.pixels,
                    mask=prediction.mask,
                    probability=prediction.probability,
                    name=f"{task.source.name} {page.index}",
                    pixel_size=pixel_size,
                    facts=partial(image.facts, page.index, asked.channel),
                )
                encoded = [(kind, encode()) for kind, _, encode in files]  # one may refuse: write all or none
                for kind, content in encoded:
                    write_whole(written[kind], content)
                finished = time.perf_counter()
                height, width = page.pixels.shape
                yield Row(
                    name,
                    page.index,
                    pages,
                    height,
                    width,
                    **_measured(int(prediction.mask.sum()), pixel_size),
                    confluence=round(prediction.confluence, 6),
                    confluence_low=round(prediction.confluence_low, 6),
                    confluence_high=round(prediction.confluence_high, 6),
                    quality=" ".join(flag_text(flag.name, flag.value) for flag in prediction.quality),
                    orientation=page.orientation,
                    turned=int(page.turned),
                    luma=int(page.luma),
                    milliseconds=round((finished - started) * 1000, 1),
                    mask=str(written["mask"]) if "mask" in written else None,
                    settings=settings,
                )
                started = finished
    except CytomaskError as error:
        yield Row(name, settings=settings, error_code=error.code, error=str(error))
    except OSError as error:
        about = f"{error.filename or task.target}: {error.strerror or error}"
        yield Row(name, settings=settings, error_code="FILE_ERROR", error=about)


def _open(source: Path) -> AbstractContextManager[images.ImageFile]:
    """Open a file of any format that the command supports."""
    if source.suffix.lower() not in MICROSCOPES:
        return images.open_image(source)
    from cytomask.microscopes import open_microscope

    return open_microscope(source)


def _readable_microscopes() -> set[str]:
    """Return the suffixes of microscope formats whose readers are installed, to find them in folders."""
    from cytomask.microscopes import READERS, is_installed

    return {suffix for suffix in READERS if is_installed(suffix)}


def _missing_readers(passed_over: Counter[str]) -> str:
    """Say how to read microscopes' files that were passed over; empty if there are none."""
    missing = sorted(MICROSCOPES & passed_over.keys())
    return f"to read {', '.join(missing)}: pip install 'cytomask[microscopes]'" if missing else ""


def _cleaner(asked: Parameters, pixel_size: PixelSize | None, name: str) -> Clean | None:
    """Return the function that cleans a page's mask as the user asks; None if nothing is asked."""
    if not asked.cleans:
        return None
    from cytomask.cleaning import cleaner_of

    return cleaner_of(asked, pixel_size, name)


def _measured(cells: int, pixel_size: PixelSize | None) -> dict[str, Any]:
    """Return a row's columns for the area: in pixels, and in mm² if the size of a pixel is known."""
    if pixel_size is None:
        return {"cell_pixels": cells}
    area = cells * pixel_size.area_um2
    return {
        "cell_pixels": cells,
        "pixel_width_um": pixel_size.width_um,
        "pixel_height_um": pixel_size.height_um,
        "cell_area_um2": round(area, 3),
        "cell_area_mm2": round(area / UM2_A_MM2, 9),
    }


def _say_row(row: Row) -> None:
    if row.error:
        complain(f"{row.file}  refused, {row.error_code}: {row.error}")
        return
    page = f" page {row.page}" if (row.pages or 1) > 1 else ""
    notes = "".join(f"{note}  " for note in (row.quality, *_how_read(row)) if note)
    say(f"{row.file}{page}  confluence {row.confluence:.3f}  {notes}{row.milliseconds:.0f} ms")


def _how_read(row: Row) -> Iterator[str]:
    """Say what the file's colours and orientation did to the page."""
    if row.luma:
        yield "grey from colours"
    if row.orientation not in (None, 1):
        yield "turned upright" if row.turned else f"not turned, orientation tag {row.orientation}"


def _resumed(done: int, path: Path | None) -> str:
    return f"{count_of(done, 'image')} done before, by {printable(str(path))}" if done else ""


def _complain_if(line: str) -> None:
    if line:
        complain(line)
