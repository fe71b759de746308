"""`cytomask segment`: masks for files on the user's own disk, by the code that serves."""

import argparse
import csv
import io
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from threading import Event

from cytomask import images, metrics
from cytomask.errors import CytomaskError
from cytomask.model.predictor import Predictor, cores
from cytomask.requests import output_key

SUFFIXES = {".tif", ".tiff", ".png", ".jpg", ".jpeg"}
OUTPUTS = (".mask.png", ".overlay.png")
MANY = 10
AT_ONCE = 4


@dataclass(frozen=True)
class Task:
    """A file to read, and the path of its outputs but for their suffix."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Row:
    """What the CSV says of one page, or of a file that was refused."""

    file: str
    page: int | None = None
    height: int | None = None
    width: int | None = None
    cell_pixels: int | None = None
    confluence: float | None = None
    milliseconds: float | None = None
    mask: str | None = None
    error_code: str | None = None
    error: str | None = None


def run_segment(arguments: argparse.Namespace, predictor: Predictor) -> int:
    """Segments every file; returns 1 if any was refused, 2 if nothing could be begun.

    Raises:
        WeightsError: there are no weights to serve; nothing was written.
    """
    tasks = find_tasks(arguments.paths, arguments.out)
    clashes = find_clashes(tasks)
    if clashes:
        for target, sources in clashes.items():
            print(f"{' and '.join(map(str, sources))} would both write {target}.mask.png", file=sys.stderr)
        print("nothing was read: give them different names, or segment them apart", file=sys.stderr)
        return 2
    if not tasks:
        print(
            f"no images ({', '.join(sorted(SUFFIXES))}) below {', '.join(map(str, arguments.paths))}",
            file=sys.stderr,
        )
        return 2
    rows = []
    for rows_of_file in _with_progress(segment_files(tasks, predictor, arguments), len(tasks)):
        for row in rows_of_file:
            rows.append(row)
            _print_row(row)
    refused = any(row.error for row in rows)
    if arguments.csv:
        try:
            write_csv(rows, arguments.csv)
        except OSError as error:
            print(f"the masks are written, {arguments.csv} is not: {error.strerror}", file=sys.stderr)
            refused = True
    return 1 if refused else 0


def find_tasks(paths: Iterable[Path], out: Path) -> list[Task]:
    """The files named, and the images below the folders named but for what an earlier run wrote there."""
    tasks = []
    for path in paths:
        if not path.is_dir():
            tasks.append(Task(path, out / path.name))
            continue
        for file in sorted(path.rglob("*")):
            if file.suffix.lower() in SUFFIXES and file.is_file() and not file.name.endswith(OUTPUTS):
                tasks.append(Task(file, out / file.relative_to(path)))
    return tasks


def find_clashes(tasks: Iterable[Task]) -> dict[Path, list[Path]]:
    """Outputs that more than one file would write, with those files; capitals do not tell names apart."""
    sources = defaultdict(list)
    for task in tasks:
        sources[Path(str(task.target).casefold())].append(task)
    return {
        clashing[0].target: [task.source for task in clashing]
        for clashing in sources.values()
        if len(clashing) > 1
    }


def segment_files(
    tasks: Sequence[Task], predictor: Predictor, arguments: argparse.Namespace
) -> Iterator[Iterable[Row]]:
    """The rows of each file in turn; while one is read, another is in the network.

    There are as many at a time as there are cores, but no more than `AT_ONCE`: each may hold a page of a
    gigabyte. Of a file on its own the rows come page by page.
    """
    if len(tasks) == 1:
        yield segment_file(tasks[0], predictor, arguments)
        return
    stopped = Event()

    def segment(task: Task) -> list[Row]:
        return list(takewhile(lambda _: not stopped.is_set(), segment_file(task, predictor, arguments)))

    # Readers turn warnings off around each page, and Python's filters are the whole process's.
    with warnings.catch_warnings(), ThreadPoolExecutor(min(cores(), AT_ONCE)) as pool:
        warnings.simplefilter("ignore")
        try:
            yield from pool.map(segment, tasks)
        finally:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)


def segment_file(task: Task, predictor: Predictor, arguments: argparse.Namespace) -> Iterator[Row]:
    """Segments and writes every page of a file; a refusal is the last row."""
    try:
        with images.open_image(task.source) as image:
            started = time.perf_counter()
            for page in images.read_pages(image, None, arguments.channel):
                prediction = predictor.predict(page.pixels, arguments.mode, arguments.threshold)
                number = page.index if len(image.pages) > 1 else None
                mask = Path(output_key(str(task.target), "mask.png", number))
                _write(mask, images.encode_mask(prediction.mask))
                if arguments.overlay:
                    overlay = Path(output_key(str(task.target), "overlay.png", number))
                    _write(overlay, images.encode_overlay(page.pixels, prediction.mask))
                finished = time.perf_counter()
                height, width = page.pixels.shape
                yield Row(
                    str(task.source),
                    page.index,
                    height,
                    width,
                    cell_pixels=int(prediction.mask.sum()),
                    confluence=round(metrics.confluence(prediction.mask), 6),
                    milliseconds=round((finished - started) * 1000, 1),
                    mask=str(mask),
                )
                started = finished
    except CytomaskError as error:
        yield Row(str(task.source), error_code=error.code, error=str(error))
    except OSError as error:
        about = f"{error.filename or task.target}: {error.strerror or error}"
        yield Row(str(task.source), error_code="FILE_ERROR", error=about)


def write_csv(rows: Iterable[Row], path: Path) -> None:
    """Writes a row for each page and each refusal."""
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, list(Row.__dataclass_fields__))
    writer.writeheader()
    writer.writerows(vars(row) for row in rows)
    _write(path, table.getvalue().encode("utf-8", "surrogateescape"))


def _write(path: Path, content: bytes) -> None:
    """Writes a whole file or none: an interruption leaves no half mask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _print_row(row: Row) -> None:
    if row.error:
        print(f"{row.file}  refused, {row.error_code}: {row.error}", file=sys.stderr)
        return
    page = f" page {row.page}" if row.mask and f".p{row.page:04d}." in row.mask else ""
    line = f"{row.file}{page}  confluence {row.confluence:.3f}  {row.milliseconds:.0f} ms"
    # A file's name need not be text: stdout refuses such bytes where stderr escapes them.
    print(line.encode(errors="backslashreplace").decode(), flush=True)


def _with_progress(files: Iterator[Iterable[Row]], count: int) -> Iterable[Iterable[Row]]:
    """A progress bar on the terminal where there is much to do and tqdm (extra `local`) to draw it."""
    if count < MANY or not sys.stderr.isatty():
        return files
    try:
        from tqdm import tqdm  # noqa: PLC0415  # an extra that serving does without
    except ImportError:
        return files
    return tqdm(files, total=count, unit="image", file=sys.stderr)
