"""`cytomask segment --plate`: measure the growth of a plate in a local folder from the masks just made."""

from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from cytomask import images
from cytomask.acquisition import Acquisition, Pattern, read_acquisition
from cytomask.cli.console import complain
from cytomask.cli.files import count_of
from cytomask.cli.plate_options import options_of, read_map, show_report
from cytomask.errors import CytomaskError
from cytomask.metrics import Mask
from cytomask.plate_pages import PlatePage
from cytomask.platemap import PlateMap, require_fit
from cytomask.plates import build_report
from cytomask.stack_times import page_times, place_pages

Line = Mapping[str, Any]  # a row by the ledger's columns; numbers may be text


def read_fitting_map(files: Iterable[Path], arguments: Namespace) -> PlateMap | None:
    """Read the given plate map, if any; raise InvalidPlateMap if it does not fit the wells of these files."""
    plate_map = read_map(arguments.map)
    if plate_map is not None:
        named = [_named(str(file), arguments.pattern, arguments.plate or None) for file in files]
        require_fit(plate_map, {each.well for each in named if each.well}, str(arguments.map))
    return plate_map


def report_plates(lines: Sequence[Line], arguments: Namespace, plate_map: PlateMap | None = None) -> int:
    """Show the growth of each plate among the pages that were segmented.

    Returns:
        0; 1 if no page could be placed or a file could not be written.
    """
    pages = list(read_pages(lines, arguments.pattern, arguments.plate or None))
    plates: dict[str, list[PlatePage]] = {}
    for page in pages:
        plates.setdefault(page.plate, []).append(page)
    lost = len(lines) - len(pages)
    if lost:
        belong = "belongs" if lost == 1 else "belong"
        complain(
            f"{count_of(lost, 'page')} {belong} to no plate; describe your file names with --pattern, or "
            "give --plate NAME if they lack only the plate"
        )
    if not plates:
        return 1
    codes = []
    for name, own in sorted(plates.items()):
        report = build_report(name, own, plate_map, options_of(arguments))
        asked = arguments if len(plates) == 1 else _named_after(arguments, name)

        def films(report: Any = report) -> Any:
            from cytomask.cli.plate_film import make_films

            return make_films(report, look)

        codes.append(show_report(report, asked, films, asked.pages_csv))
    return max(codes)


def read_pages(lines: Sequence[Line], pattern: Pattern | None, plate: str | None) -> Iterator[PlatePage]:
    """Read the pages whose names give a plate and a well; `plate` replaces the names' plates."""
    told: dict[str, Sequence[Acquisition]] = {}
    counts: dict[str, int] = {}
    for line in lines:
        counts[str(line["file"])] = max(counts.get(str(line["file"]), 0), _page_number(line) + 1)
    for line in lines:
        file = str(line["file"])
        named = _named(file, pattern, plate)
        if not named.placed:
            continue
        if named.time is None or counts[file] > 1:
            if file not in told:
                told[file] = place_pages(named, read_times(Path(file)) or [Acquisition()] * counts[file])
            if _page_number(line) < len(told[file]):  # the file may have changed since an earlier run
                named = told[file][_page_number(line)]
        yield _page(line, named)


def _named(file: str, pattern: Pattern | None, plate: str | None) -> Acquisition:
    whole = str(Path(file).parent.resolve() / Path(file).name)
    return Acquisition(plate=plate).filled_from(read_acquisition(file, pattern, path=whole))


def read_times(path: Path) -> Sequence[Acquisition]:
    """Read the times in a TIFF's metadata; none if the file is not a TIFF or is damaged."""
    try:
        with tifffile.TiffFile(path) as file:
            first = file.pages.first
            date = first.tags.valueof("DateTime")
            return page_times(first.description, str(date) if date else None, len(file.pages))
    except Exception:  # tifffile raises many errors for damaged headers; the pages were checked before
        return ()


def look(page: PlatePage) -> tuple[NDArray[np.generic], Mask] | None:
    """Read a page and its mask from the disk; None if one is gone."""
    if page.mask is None:
        return None
    try:
        pixels = images.read_page(Path(page.image), page.page or 0, None).pixels
        mask = images.read_page(Path(page.mask)).pixels > 0
    except (OSError, CytomaskError):
        return None
    return (pixels, mask) if pixels.shape == mask.shape else None


def _page_number(line: Line) -> int:
    return int(line["page"]) if line["page"] not in (None, "") else 0


def _page(line: Line, named: Acquisition) -> PlatePage:
    file = Path(str(line["file"]))
    size = _number(line["height"]), _number(line["width"])
    return PlatePage(
        plate=named.plate or "",
        well=named.well or "",
        site=named.site or "",
        time=named.time,
        frame=named.frame,
        channel=named.channel,
        confluence=_number(line["confluence"]),
        confluence_low=_number(line["confluence_low"]),
        confluence_high=_number(line["confluence_high"]),
        cell_area_mm2=_number(line.get("cell_area_mm2")),
        quality=tuple(flag.partition("=")[0] for flag in str(line.get("quality") or "").split()),
        pixels=int(size[0] * size[1]) if size[0] and size[1] else None,
        model=str(line["model"]) or None,
        mode=str(line["mode"]) or None,
        threshold=_number(line["threshold"]),
        image=str(file),
        mask=str(line["mask"]) if line["mask"] else None,
        page=_page_number(line),
        status="REJECTED" if line["error"] else "SUCCEEDED",
        error=str(line["error"]) if line["error"] else None,
        uploaded_at=_changed(file),
        source=named.sources[0] if named.sources else "",
    )


def _number(value: object) -> float | None:
    return None if value in (None, "") else float(str(value))


def _changed(file: Path) -> str:
    """Return the time when a file was last changed, as text that sorts by time."""
    try:
        return f"{file.stat().st_mtime_ns:020d}"
    except OSError:
        return ""


def _named_after(arguments: Namespace, plate: str) -> Namespace:
    """Return the arguments with the plate's name in the outputs, for a folder of several plates."""
    named = Namespace(**vars(arguments))
    for option in ("pages_csv", "wells", "conditions", "prism", "html"):
        path: Path | None = getattr(named, option)
        if path is not None:
            setattr(named, option, path.with_name(f"{path.stem}-{plate}{path.suffix}"))
    return named
