"""`cytomask compare`: compare two models on the same images, by their scores and by their disagreement."""

import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from cytomask.cli.console import complain, say, with_progress
from cytomask.cli.files import complain_unused, count_of, write_whole
from cytomask.cli.options import Commands, Parser, add_channel_option, add_command, require_extra
from cytomask.cli.tables import number, print_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cytomask.metrics import Mask
    from cytomask.model.predictor import Mode, Predictor
    from cytomask.truths.pairs import Found

EXAMPLES = (
    "cytomask compare swin-unet-1.0 mine plate/             # where do the two disagree?",
    "cytomask compare swin-unet-1.0 mine corrected/         # with masks: also which one is right",
    "cytomask compare models/a models/b images/ masks/ --out a-and-b.html",
)
HEADS = ("page", "agreement", "confluence A", "confluence B")
SCORES = ("IoU A", "IoU B")
LEARNED = ("learned by",)
PICTURES = 12  # pages, those on which the two disagree most
LONGEST_SIDE = 560  # pixels


@dataclass(frozen=True)
class Compared:
    """Two models' masks of one page.

    Attributes:
        name: name of the page.
        agreement: IoU of the two masks.
        confluence: confluence of each mask, 0..1.
        iou: IoU of each mask with the ground truth; None if there is none.
        learned_by: the models that learned from the page, `A` and `B`; their IoU says little of other pages.
        pictures: pictures of the page, as data addresses for an HTML page.
    """

    name: str
    agreement: float
    confluence: tuple[float, float]
    iou: tuple[float, float] | None
    learned_by: str
    pictures: dict[str, str]


def add_parser(commands: "Commands[Parser]") -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "compare",
        "compare two models on the same images",
        run,
        EXAMPLES,
        description="IMAGES are files or folders, with or without ground truths in the forms that\n"
        "`finetune` accepts. Pages with a ground truth are scored. On all pages the two masks are compared\n"
        "with each other.",
    )
    parser.add_argument("models", nargs=2, metavar="MODEL", help="two names from `models`, or two folders")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGES", help="files or folders")
    parser.add_argument(
        "--mode", choices=("native", "resize"), default="native", help="as in `segment`; default: native"
    )
    add_channel_option(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("compare.html"), metavar="FILE", help="default: compare.html"
    )


def run(arguments: Namespace) -> int:
    """Compare, print a table and write one HTML page; return 1 if something cannot be read.

    Files that cannot be read are named and left out.
    """
    require_extra("local", "jinja2")
    from cytomask.cli.weights import open_weights, require_one_mode
    from cytomask.model.predictor import WeightsError
    from cytomask.truths.pairs import PairsError, find_images_and_truths

    code = 0
    compared: list[Compared] = []
    try:
        require_one_mode(*arguments.models)
        first, second = (open_weights(named, arguments.mode) for named in arguments.models)
        for each in (first, second):
            each.wait()
        with tempfile.TemporaryDirectory(prefix="cytomask-") as scratch:
            found = find_images_and_truths(arguments.images, Path(scratch))
            complain_unused(found)
            count = len(found.pairs) + len(found.without_truth)
            if not count:
                complain(f"no images in {', '.join(map(str, arguments.images))}")
                return 1
            pages = compare_all(first, second, found, arguments.mode, arguments.channel)
            try:
                for page in with_progress(pages, count, "page"):
                    compared.append(page)  # those before an error are kept
            except PairsError as error:  # the other pages are worth their table
                complain(f"left out: {error}")
                code = 1
            if not compared:
                return 1
        compared.sort(key=lambda each: each.agreement)
        names = tuple(each.manifests[arguments.mode].name for each in (first, second))
        write_whole(arguments.out, render_comparison(compared, names, arguments.mode))
    except (PairsError, WeightsError) as error:
        complain(str(error))
        return 1
    except OSError as error:
        complain(f"{error.filename or arguments.out}: {error.strerror or error}")
        return 1
    heads, rows = table_of(compared)
    print_table(heads, rows, heads[1:])
    say(f"A is {names[0]}, B is {names[1]}; {count_of(len(compared), 'page')}, the least alike first")
    if all(each.learned_by for each in compared if each.iou) and any(each.iou for each in compared):
        complain("a model learned from each of the scored pages, so its scores are too high for new pages")
    say(f"wrote {arguments.out}")
    return code


def compare_all(
    first: "Predictor", second: "Predictor", found: "Found", mode: "Mode", channel: int | None
) -> Iterator[Compared]:
    """Compare two models on a channel of each page, those with a ground truth first.

    Raises:
        PairsError: after the last page, if images or ground truths cannot be read.
    """
    from cytomask.model.predictor import page_hash
    from cytomask.truths.pairs import PairsError, read_pages, read_plain_pages

    def compare(name: str, pixels: "NDArray[Any]", cells: "Mask | None") -> Compared:
        masks = (each.predict(pixels, mode).mask for each in (first, second))
        page, models = page_hash(pixels), {"A": first, "B": second}
        learned = [name for name, each in models.items() if page in each.manifests[mode].learned_pages]
        return compare_page(name, pixels, cells, *masks, learned_by=" and ".join(learned))

    faults = []
    try:
        yield from (compare(page.name, page.pixels, page.cells) for page in read_pages(found.pairs, channel))
    except PairsError as error:
        faults.append(str(error))
    for name, path in found.without_truth.items():
        try:
            yield from (compare(page, pixels, None) for page, pixels in read_plain_pages(name, path, channel))
        except PairsError as error:
            faults.append(str(error))
    if faults:
        raise PairsError("; ".join(faults))


def compare_page(
    name: str,
    pixels: "NDArray[Any]",
    cells: "Mask | None",
    ours: "Mask",
    theirs: "Mask",
    *,
    learned_by: str = "",
) -> Compared:
    """Compare two masks of a page, all (H, W)."""
    from cytomask import metrics
    from cytomask.cli.pictures import compared_uri, grey_page, png_uri

    pictures = {
        "image": png_uri(grey_page(pixels, LONGEST_SIDE)),
        "A (orange) and B (blue)": compared_uri(ours, theirs, LONGEST_SIDE),
    }
    iou = None
    if cells is not None:
        iou = metrics.score(ours, cells).iou, metrics.score(theirs, cells).iou
        pictures |= {
            "A (orange) and ground truth (blue)": compared_uri(ours, cells, LONGEST_SIDE),
            "B (orange) and ground truth (blue)": compared_uri(theirs, cells, LONGEST_SIDE),
        }
    confluence = metrics.confluence(ours), metrics.confluence(theirs)
    return Compared(name, metrics.score(ours, theirs).iou, confluence, iou, learned_by, pictures)


def table_of(compared: Sequence[Compared]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the heads and rows of the table, with the means last.

    It has scores only if there are ground truths. If a model learned from some of the scored pages, the
    others have means of their own.
    """
    scored = [each for each in compared if each.iou]
    unseen = [each for each in scored if not each.learned_by]
    heads = (*HEADS, *(SCORES if scored else ()), *(LEARNED if len(unseen) < len(scored) else ()))

    def cells(each: Compared) -> tuple[str, ...]:
        plain = (each.name, number(each.agreement), *map(number, each.confluence))
        return (*plain, *map(number, each.iou or (None, None)), each.learned_by)[: len(heads)]

    def means(name: str, pages: Sequence[Compared]) -> tuple[str, ...]:
        ious = [each.iou for each in pages if each.iou]
        return (
            name,
            number(fmean(each.agreement for each in pages)),
            *(number(fmean(each.confluence[place] for each in pages)) for place in (0, 1)),
            *(number(fmean(iou[place] for iou in ious)) for place in (0, 1) if ious),
            "",
        )[: len(heads)]

    some = f", IoU of {len(scored)}" if 0 < len(scored) < len(compared) else ""
    rows = [*map(cells, compared), means(f"mean of {len(compared)}{some}", compared)]
    if 0 < len(unseen) < len(scored):
        rows.append(means(f"mean of {len(unseen)} that no model learned from", unseen))
    return heads, rows


def render_comparison(compared: Sequence[Compared], names: Sequence[str], mode: str) -> bytes:
    """Render the page in UTF-8; it needs no other file.

    Args:
        compared: the pages, the least alike first.
        names: names of the two models.
        mode: mode of both.
    """
    from cytomask import __version__
    from cytomask.cli.html import render

    heads, rows = table_of(compared)
    return render(
        "compare.html",
        title=f"{names[0]} and {names[1]}",
        version=__version__,
        names=names,
        mode=mode,
        heads=heads,
        rows=rows,
        figures=compared[:PICTURES],
        more=max(len(compared) - PICTURES, 0),
    )
