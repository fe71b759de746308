"""Shared parts of `cytomask plate` and `cytomask segment --plate`: options of a report, and its outputs."""

from argparse import ArgumentTypeError, Namespace, _ArgumentGroup
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cytomask.cli.console import complain, say
from cytomask.cli.files import count_of, write_whole
from cytomask.cli.options import Parser, require_extra

if TYPE_CHECKING:
    from cytomask.acquisition import Pattern
    from cytomask.cli.plate_page import Frame
    from cytomask.plate_pages import Options
    from cytomask.platemap import PlateMap
    from cytomask.plates import PlateReport

MOST_NOTES = 20  # lines about omitted pages, on the terminal


def add_report_options(parser: "Parser | _ArgumentGroup") -> None:
    """Add the options for a report and its files."""
    parser.add_argument("--map", type=Path, metavar="FILE", help="plate map: IncuCyte's .PlateMap, or a CSV")
    parser.add_argument("--control", metavar="C", help="condition that the others are compared with")
    parser.add_argument(
        "--leave-out",
        nargs="+",
        type=flag,
        default=[],
        metavar="FLAG",
        help="leave out pages with these quality flags, such as OUT_OF_FOCUS; `all` for any flag",
    )
    parser.add_argument(
        "--interval",
        type=hours,
        metavar="HOURS",
        help="time between scans, if file names count scans instead of giving times",
    )
    parser.add_argument("--wells", type=Path, metavar="FILE", help="write a CSV with a row for each well")
    parser.add_argument(
        "--conditions", type=Path, metavar="FILE", help="write a CSV with a row for each condition"
    )
    parser.add_argument(
        "--prism", type=Path, metavar="FILE", help="write a grid to paste into GraphPad Prism"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one page with heat map and curves")


def add_pattern_option(parser: "Parser | _ArgumentGroup") -> None:
    """Add the option for the user's own naming scheme."""
    parser.add_argument(
        "--pattern", type=pattern, metavar="REGEX", help="structure of the file names, if no preset fits"
    )


def hours(text: str) -> float:
    """Read a number of hours above 0."""
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = 0.0
    if not 0 < value <= 10_000:
        raise ArgumentTypeError(f"{text[:50]!r} is not a number of hours; give one above 0, such as 4 or 0.5")
    return value


def flag(text: str) -> str:
    """Read the name of a quality flag, or `all`."""
    from cytomask.errors import InvalidRequest
    from cytomask.plate_pages import parse_flags

    try:
        (name,) = parse_flags([text or "-"])
    except InvalidRequest as error:
        raise ArgumentTypeError(str(error)) from None
    return name


def pattern(text: str) -> "Pattern":
    """Read and check a naming pattern."""
    from cytomask.acquisition import parse_pattern
    from cytomask.errors import InvalidRequest

    try:
        return parse_pattern(text)
    except InvalidRequest as error:
        raise ArgumentTypeError(str(error)) from None


def plate_name(text: str) -> str:
    """Read and check the name of a plate; empty if the option is given without one."""
    from cytomask.acquisition import check_plate
    from cytomask.errors import InvalidRequest

    try:
        return check_plate(text) if text else ""
    except InvalidRequest as error:
        raise ArgumentTypeError(str(error)) from None


def options_of(arguments: Namespace) -> "Options":
    """Read the report's options."""
    from cytomask.plate_pages import Options

    return Options(
        leave_out=frozenset(arguments.leave_out),
        interval_h=arguments.interval,
        channel=getattr(arguments, "plate_channel", None),
        control=arguments.control,
    )


def read_map(path: Path | None) -> "PlateMap | None":
    """Read the given plate map; raise InvalidPlateMap if it is invalid or cannot be read."""
    from cytomask.errors import InvalidPlateMap
    from cytomask.platemap import LARGEST_FILE, parse_plate_map

    if path is None:
        return None
    try:
        with path.open("rb") as file:
            return parse_plate_map(file.read(LARGEST_FILE + 1), path.name)
    except OSError as error:
        raise InvalidPlateMap(f"{path} cannot be read: {error.strerror or error}") from error


def show_report(
    report: "PlateReport",
    arguments: Namespace,
    make_films: "Callable[[], Mapping[str, Sequence[Frame]]]",
    pages_csv: Path | None = None,
) -> int:
    """Print each well's growth and the omitted pages, and write the requested files.

    Args:
        report: the plate's report.
        arguments: the command's arguments, including those of `add_report_options`.
        make_films: draws the film strips, if an HTML page is requested.
        pages_csv: file for the rows of pages.

    Returns:
        The exit code: 1 if a file could not be written.
    """
    from cytomask import plate_tables

    print_report(report)
    texts: list[tuple[Path | None, Callable[[PlateReport], str]]] = [
        (pages_csv, plate_tables.pages_csv),
        (arguments.wells, plate_tables.wells_csv),
        (arguments.conditions, plate_tables.conditions_csv),
        (arguments.prism, plate_tables.prism_grid),
    ]
    files = {path: make(report).encode("utf-8", "surrogateescape") for path, make in texts if path}
    if arguments.html:
        require_extra("local", "jinja2")
        from cytomask.cli.plate_page import render_plate

        files[arguments.html] = render_plate(report, make_films())
    code = 0
    for path, content in files.items():
        try:
            write_whole(path, content)
        except OSError as error:
            complain(f"{path} cannot be written: {error.strerror or error}")
            code = 1
    if arguments.html and code == 0:
        say(f"page      {arguments.html.resolve().as_uri()}   <- open this in a browser")
    return code


def print_report(report: "PlateReport") -> None:
    """Print a line for each well and each condition, and the notes."""
    from cytomask.cli.plate_page import goodness, hours, interval, number, span
    from cytomask.cli.tables import print_table

    times = f", {span(report.scans)}" if report.scans.size else ""
    say(
        f"plate {report.plate}: {count_of(len(report.wells), 'well')}, "
        f"{count_of(report.scans.size, 'scan')}{times}, {count_of(len(report.pages), 'page')} used, "
        f"{len(report.left_out)} left out"
    )
    heads = ("well", "condition", "pages", "doubling time", "95 % interval", "R²", "lag", "plateau", "notes")
    rows = [
        (
            well.well,
            well.condition or "-",
            str(well.pages),
            hours(well.growth.doubling_time_h),
            interval(well.growth),
            goodness(well.growth.r2),
            hours(well.growth.lag_h),
            number(well.growth.plateau),
            "; ".join(well.growth.notes),
        )
        for well in report.wells.values()
    ]
    if rows:
        print_table(heads, rows, ("pages", "doubling time", "95 % interval", "R²", "lag", "plateau"))
    if report.conditions:
        say()
        print_table(
            ("condition", "wells", "measured", "doubling time", "relative rate"),
            [
                (
                    each.name,
                    str(len(each.wells)),
                    str(each.measured),
                    hours(each.doubling_time_h),
                    number(each.relative_rate),
                )
                for each in report.conditions
            ],
            ("wells", "measured", "doubling time", "relative rate"),
        )
    for note in report.notes:
        complain(note)
    for each in report.left_out[:MOST_NOTES]:
        complain(f"left out: {each.image} ({each.well}): {each.reason}")
    if len(report.left_out) > MOST_NOTES:
        complain(f"{len(report.left_out) - MOST_NOTES} more are left out; --html lists them")
