"""`cytomask plate NAME`: show how the wells of a plate grow, from the stack's masks."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cytomask.cli.console import complain, say
from cytomask.cli.options import Commands, Parser, add_command, on_stack
from cytomask.cli.plate_options import add_report_options, options_of, read_map, show_report

if TYPE_CHECKING:
    from cytomask.cli.plate_page import Frame
    from cytomask.cli.stack import Stack
    from cytomask.plate_pages import PlatePage
    from cytomask.plate_rows import PlateSummary
    from cytomask.platemap import PlateMap
    from cytomask.plates import PlateReport

EXAMPLES = (
    "cytomask plate VID1523                                 # each well's doubling time and its problems",
    "cytomask plate VID1523 --csv pages.csv --wells wells.csv    # a row per page, and a row per well",
    "cytomask plate VID1523 --map VID1523.PlateMap --control DMSO --html growth.html",
    "cytomask plate VID1523 --leave-out all --prism prism.txt    # without doubtful pages, for GraphPad",
)
AT_ONCE = 8  # images fetched at a time


def add_parser(commands: "Commands[Parser]") -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "plate",
        "show how the wells of a plate grow",
        on_stack(run_plate),
        EXAMPLES,
        description="Pages that no curve uses are listed with the reason. The plate map that was uploaded\n"
        "with the images is used unless --map names another.",
        on_a_stack=True,
    )
    parser.add_argument("name", metavar="NAME", help="name of the plate, from `cytomask plates`")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a tidy CSV with a row for each page")
    parser.add_argument("--plate-channel", metavar="C", help="channel to measure, if there are several")
    parser.add_argument("--no-film", action="store_true", help="leave the film strips out of the page")
    add_report_options(parser)
    model = parser.add_argument_group("which model segments it").add_mutually_exclusive_group()
    model.add_argument(
        "--pin",
        nargs="?",
        const="",
        metavar="MODEL",
        help="segment the plate's next images with this model: baked-in, or the name or sha256 (8 digits or "
        "more) of a model in the stack; without MODEL, show the plate's model",
    )
    model.add_argument(
        "--unpin", action="store_true", help="let the plate's next image choose the stack's current model"
    )


def run_plate(stack: "Stack", arguments: Namespace) -> int:
    """Show a plate; return 1 if no plate has this name, 2 if the plate map is unusable."""
    from cytomask.errors import InvalidPlateMap
    from cytomask.plate_rows import Plates
    from cytomask.platemap import require_fit
    from cytomask.plates import build_report

    if arguments.pin is not None or arguments.unpin:
        return change_pin(stack, arguments.name, None if arguments.unpin else arguments.pin)
    plates = Plates(stack.dynamodb, stack.table)
    pages = list(plates.pages(arguments.name))
    if not pages:
        complain(no_plate(stack, arguments.name))
        return 1
    try:
        plate_map = read_map(arguments.map)
        if plate_map is not None:
            require_fit(plate_map, {page.well for page in pages}, str(arguments.map))
    except InvalidPlateMap as error:
        complain(str(error))
        return 2
    stored, note = uploaded_map(plates, arguments.name) if plate_map is None else (None, None)
    report = build_report(
        arguments.name,
        pages,
        plate_map or stored,
        with_expected(options_of(arguments), plates.summary(arguments.name)),
    )
    if note:
        complain(note)
    if step := step_between_models(pages):
        complain(step)

    def films() -> "Mapping[str, Sequence[Frame]]":
        return {} if arguments.no_film else make_films(stack, report)

    return show_report(report, arguments, films, arguments.csv)


def no_plate(stack: "Stack", name: str) -> str:
    """Say that the stack has no such plate."""
    return f"the stack `{stack.name}` has no plate {name}; `cytomask plates` lists them"


def step_between_models(pages: "Sequence[PlatePage]") -> str:
    """Warn if a plate's masks are by several models; empty if they are by one."""
    models = sorted({page.model for page in pages if page.model and page.mode != "resize"})
    if len(models) < 2:
        return ""
    return (
        f"the masks are by {len(models)} models ({', '.join(models)}), so curves may have a step where the "
        "model changed; `cytomask backfill` makes all of them with the plate's model"
    )


def change_pin(stack: "Stack", plate: str, named: str | None) -> int:
    """Pin a plate to a model, show its model (empty name), or unpin it (None).

    Returns:
        0; 1 if no plate has this name, 2 if the model cannot be used.
    """
    from cytomask.cli.stack_weights import called, stored_model
    from cytomask.errors import ModelUnusable
    from cytomask.plate_rows import Plates

    pinned = stack.pins.read(plate)
    if pinned is None and Plates(stack.dynamodb, stack.table).summary(plate) is None:
        complain(no_plate(stack, plate))
        return 1
    if named == "":
        said = f"is pinned to {called(pinned)}" if pinned else "is not pinned yet; its next image pins it"
        say(f"{plate} {said}")
        return 0
    if named is None:
        stack.pins.unpin(plate)
        say(f"{plate} is no longer pinned; its next image pins it to the stack's current model")
        return 0
    try:
        model = stored_model(stack, named)
    except ModelUnusable as error:
        complain(str(error))
        return 2
    if model is None:
        complain(f"the stack has no model {named}; `cytomask promote {named} --no-switch` uploads one")
        return 2
    stack.pins.pin(plate, model)
    say(f"{plate}: {called(pinned) if pinned else 'no model'} -> {called(model)}")
    say("existing masks stay: the curve has a step here unless `cytomask backfill` makes the masks again")
    return 0


def uploaded_map(plates: Any, name: str) -> "tuple[PlateMap | None, str | None]":
    """Return the uploaded plate map, or None and the reason why it is unusable."""
    stored = plates.map_of(name)
    if stored is None:
        return None, None
    return (
        stored.plate_map,
        f"the plate map {stored.uri} is not used: {stored.error}" if stored.error else None,
    )


def with_expected(options: Any, summary: "PlateSummary | None") -> Any:
    """Return the options with the number of pages that the stack expects."""
    import msgspec

    expected = summary.expected_pages if summary else None
    return msgspec.structs.replace(options, expected_pages=expected)


def make_films(stack: "Stack", report: "PlateReport") -> "dict[str, list[Frame]]":
    """Fetch the pages of the film strips and their masks, several at a time, and draw them."""
    from cytomask.cli import plate_film

    chosen = [page for pages in plate_film.choose(report).values() for page in pages]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        seen = dict(zip(map(_place, chosen), pool.map(lambda page: look(stack, page), chosen), strict=True))
        return plate_film.make_films(report, lambda page: seen[_place(page)])


def look(stack: "Stack", page: "PlatePage") -> Any:
    """Read a page and its mask; None if one is gone or has another size."""
    from botocore.exceptions import ClientError

    from cytomask import images
    from cytomask.addresses import S3Object, parse_uri
    from cytomask.errors import CytomaskError
    from cytomask.storage import Storage

    if page.mask is None:
        return None
    storage = Storage(stack.s3)
    place, mask_place = parse_uri(page.image, "image"), parse_uri(page.mask, "mask")
    try:
        found = storage.find(S3Object(place.bucket, place.key))
        mask = storage.read_output(mask_place.bucket, mask_place.key)
        if found is None or mask is None:
            return None
        pixels = _first(storage.read_image(found, images.Limits()), page.image, page.page or 0)
        cells = _first(mask, page.mask, 0) > 0
    except (ClientError, CytomaskError):
        return None
    return (pixels, cells) if pixels.shape == cells.shape else None


def _first(content: bytes, name: str, number: int) -> Any:
    """Return the pixels of one page of an image."""
    from cytomask import images

    with images.open_image(content, name) as image:
        return next(iter(images.read_pages(image, [number], None, images.Limits()))).pixels


def _place(page: "PlatePage") -> tuple[str, int | None]:
    return page.image, page.page
