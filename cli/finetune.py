"""`cytomask finetune`: make weights for your own microscope from a few corrected pages."""

import os
import re
import shlex
import subprocess  # its quoting for Windows
import tempfile
import time
import unicodedata
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from cytomask.cli.console import complain, say
from cytomask.cli.files import complain_left_out, complain_unused, count_of
from cytomask.cli.options import (
    Commands,
    Parser,
    add_channel_option,
    add_command,
    count,
    moment,
    require_extra,
    seed,
)
from cytomask.cli.tables import number, print_table

if TYPE_CHECKING:
    from cytomask.training.finetune import Outcome, PageScore, Split
    from cytomask.training.tuner import Step
    from cytomask.truths.pairs import Page

EXAMPLES = (
    "cytomask finetune corrected/ --name my-microscope      # images and masks in one folder",
    "cytomask finetune images/ masks/ --out models/mine     # in two folders, under the same names",
    "cytomask finetune pairs.zip --name mine                # corrected pairs from `cytomask web`",
    "cytomask finetune coco.json images/ --name mine        # a COCO file and its images",
    "cytomask finetune --from-stack --since 7d --name mine  # ground truths in the stack",
    "cytomask segment plate/ --weights mine                 # then use the weights",
)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
EXTRA_MODULES = ("torch", "cv2", "onnx", "onnxscript", "safetensors", "jinja2")
SECONDS_BETWEEN_LINES = 20.0
FORGETTING = 0.02  # IoU; weights that lose more on generated pages got worse on others
STOPPED = 130  # 128 and the number of SIGINT, as shells count


def add_parser(commands: "Commands[Parser]") -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "finetune",
        "make weights for your own microscope from a few corrected pages",
        run,
        EXAMPLES,
        description="PAIRS are images with masks of the same names (a.tif with a_mask.png, a_masks.tif,\n"
        "a_cp_masks.png, a_label.png or a_seg.npy): one folder, a folder of images and one of masks, a COCO\n"
        "file and its images, or the zip of corrected pairs from `cytomask web`. Ctrl-C stops; run the same\n"
        "command again to resume. It needs the extra `train`: pip install 'cytomask[train]'.",
        on_a_stack=True,
    )
    parser.add_argument("pairs", nargs="*", type=Path, metavar="PAIRS", help="images with their masks")
    parser.add_argument(
        "--name",
        metavar="NAME",
        help="name of the new weights; default: the name of the --out folder, or of the first of PAIRS",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of the new weights; default: the folder that `models` lists",
    )
    parser.add_argument("--start", metavar="DIR|NAME", help="weights to begin from; default: shipped ones")
    parser.add_argument(
        "--mode", choices=("native", "resize"), default="native", help="as in `segment`; default: native"
    )
    add_channel_option(parser)
    parser.add_argument(
        "--partial", action="store_true", help="the masks mark only some cells; other pixels are unknown"
    )
    parser.add_argument(
        "--steps", type=count, metavar="N", help="most steps to train; default: by the number of pages"
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="random seed; default: 0")
    parser.add_argument(
        "--about", default="", metavar="TEXT", help="description of the pages, for the manifest"
    )
    parser.add_argument(
        "--pairs-licence", default="", metavar="TEXT", help="licence of the pairs, if they are not your own"
    )
    parser.add_argument(
        "--licence",
        default="",
        metavar="TEXT",
        help="licence of the new weights; default: follows from start and pairs",
    )
    stack = parser.add_argument_group("pairs from a stack")
    stack.add_argument(
        "--from-stack", action="store_true", help="take images with their newest ground truths"
    )
    stack.add_argument("--group", metavar="G", help="only jobs of this group")
    stack.add_argument("--since", type=moment, metavar="TIME", help="only jobs since this time")


def run(arguments: Namespace) -> int:
    """Make the weights.

    Returns 1 if pairs, start or licence cannot be used, 2 for wrong usage, 130 if stopped.
    """
    name = arguments.name or _name_of(arguments)
    if fault := _misuse(arguments, name):
        complain(fault)
        return 2
    require_extra("train", *EXTRA_MODULES)
    from cytomask.cli.weights import find_weights, models_folder
    from cytomask.model.predictor import WEIGHTS, WeightsError

    out = arguments.out or models_folder() / name
    try:
        _require_free(name, out)
        start = find_weights(arguments.start, arguments.mode) if arguments.start else WEIGHTS
        with tempfile.TemporaryDirectory(prefix="cytomask-") as scratch:
            pages = _read(arguments, Path(scratch))
            return _finetune(arguments, name, out, start, pages)
    except (WeightsError, ValueError) as error:  # PairsError is a ValueError
        complain(str(error))
    except OSError as error:
        complain(f"{error.filename or out}: {error.strerror or error}")
    return 1


def _misuse(arguments: Namespace, name: str) -> str:
    """Say what is wrong with the usage; empty if nothing is."""
    if bool(arguments.pairs) == arguments.from_stack:
        return "give PAIRS, or --from-stack for pairs from a stack"
    if (arguments.group or arguments.since) and not arguments.from_stack:
        return "--group and --since choose jobs of a stack; use them with --from-stack"
    if not name:
        return "--name is missing, and the folder's name has none of the letters a-z or digits; give a --name"
    if not NAME.fullmatch(name):
        return (
            f"--name: {name[:80]!r} is not a name for weights; use up to 64 letters, digits and . _ + -, "
            "beginning with a letter or digit"
        )
    return ""


def _require_free(name: str, out: Path) -> None:
    """Raise ValueError if other weights have this name, or if the folder is that of the shipped weights."""
    from cytomask.cli.weights import models_at_hand
    from cytomask.model.predictor import WEIGHTS

    place = out.resolve()
    if place.is_relative_to(WEIGHTS.resolve()):
        raise ValueError(f"{out} is the folder of the shipped weights; choose another --out")
    for each in models_at_hand():
        if each.name == name and each.folder.resolve() != place:
            raise ValueError(f"weights called {name} exist already, in {each.folder}; choose another --name")


def _name_of(arguments: Namespace) -> str:
    """Derive a name from --out or PAIRS; empty if that has no letter or digit to use."""
    if arguments.out:
        return plain_name(arguments.out.resolve().name)
    if arguments.pairs:
        return plain_name(arguments.pairs[0].resolve().stem)
    return f"{arguments.stack}-{time.strftime('%Y%m%d')}"


def plain_name(text: str) -> str:
    """Turn a folder's name into a name for weights, such as `my-aou-model` for `my äöü model`."""
    letters = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    without_accents = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", without_accents).strip("-._+")[:64]


def _read(arguments: Namespace, scratch: Path) -> "list[Page]":
    """Read all pages, and print what was left out."""
    from cytomask.truths.pairs import find_pairs, read_pages

    paths = arguments.pairs
    if arguments.from_stack:
        from cytomask.cli.stack_pairs import fetch_pairs

        paths = [fetch_pairs(arguments, scratch / "stack.zip")]
    found = find_pairs(paths, scratch)
    complain_left_out([*found.without_truth], "image", "without a ground truth")
    complain_unused(found)
    pages = list(read_pages(found.pairs, arguments.channel))
    empty = [page.name for page in pages if not page.cells.any()]
    if empty and not arguments.partial:
        complain(f"no cell is marked in {', '.join(empty[:10])}; these pages teach only background")
    return pages


def _finetune(arguments: Namespace, name: str, out: Path, start: Path, pages: "Sequence[Page]") -> int:
    from cytomask.training.finetune import Request, finetune
    from cytomask.training.processes import signals
    from cytomask.training.tuner import Interrupted, Recipe, steps_for

    recipe = Recipe(
        mode=arguments.mode,
        steps=arguments.steps or steps_for(len(pages)),
        seed=arguments.seed,
        partial=arguments.partial,
    )
    request = Request(
        pages=pages,
        out=out,
        name=name,
        start=start,
        recipe=recipe,
        licence=arguments.licence,
        pairs_licence=arguments.pairs_licence,
        about=arguments.about,
    )
    measure = _measure(recipe.partial)

    def begun(split: "Split") -> None:
        kept = [page.name for page, held in zip(pages, split.held_out, strict=True) if held]
        many = count_of(len(pages), "page")
        if kept:
            say(f"{many}: {len(pages) - len(kept)} to learn from, held out: {', '.join(kept)}")
        else:
            say(
                f"{many}, all to learn from, so no score is independent. Check the masks before you trust "
                "them"
            )
        if known := sum(split.learned):
            say(f"the start weights have learned from {known} of them already; these are never held out")
        say(f"start weights: {measure} {fmean(split.scores):.3f} on these pages")

    with signals() as noted:
        try:
            outcome = finetune(request, begun=begun, report=_Progress(), stopped=lambda: noted[0] != 0)
        except Interrupted:
            complain(f"stopped; run the same command again to resume. The state is in {out}")
            return STOPPED
    _tell(outcome, measure)
    return 0


class _Progress:
    """Prints a line from time to time: step, loss, IoU and time left."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def __call__(self, step: "Step") -> None:
        due = time.monotonic() - self._said >= SECONDS_BETWEEN_LINES
        if step.iou is None and not due and 1 < step.step < step.steps:
            return
        self._said = time.monotonic()
        scored = f", held-out IoU {step.iou:.3f}" if step.iou is not None else ""
        left = _minutes(step.seconds_left)
        complain(f"step {step.step} of {step.steps}, loss {step.loss:.3f}{scored}, {left} left")


def _minutes(seconds: float) -> str:
    return f"about {seconds / 60:.0f} minutes" if seconds >= 90 else f"about {seconds:.0f} seconds"


def _measure(partial: bool) -> str:
    return "share of the marked cells that was found" if partial else "IoU"


def _tell(outcome: "Outcome", measure: str) -> None:
    """Print the table and the next steps; write the report."""
    from cytomask.cli.files import write_whole
    from cytomask.cli.finetune_page import render_report
    from cytomask.training.finetune import REPORT

    manifest = outcome.manifest
    say("")
    print_table(
        ("page", "used", "before", "after", "change"), rows_of(outcome.pages), ("before", "after", "change")
    )
    say("")
    for line in notes_of(outcome, measure):
        say(line)
    write_whole(outcome.folder / REPORT, render_report(outcome, measure))
    say(f"wrote {outcome.folder}: weights, manifest.json and {REPORT} with the pages that changed most")
    say(f"use it: cytomask segment PATH --weights {shown(outcome)}{_mode(manifest.mode)}")


def _mode(mode: str) -> str:
    return "" if mode == "native" else f" --mode {mode}"


def shown(outcome: "Outcome") -> str:
    """Return the model's name if `cytomask models` finds it, otherwise its folder, quoted for a shell."""
    from cytomask.cli.weights import models_folder

    found = outcome.folder.resolve().parent == models_folder().resolve()
    if found:
        return outcome.manifest.name
    folder = str(outcome.folder)
    return subprocess.list2cmdline([folder]) if os.name == "nt" else shlex.quote(folder)


def rows_of(pages: "Sequence[PageScore]") -> list[tuple[str, ...]]:
    """Return a row for each page, the largest gain first, and the means."""
    rows: list[tuple[str, ...]] = [
        (each.page.name, "held out" if each.held_out else "learned from", *_change(each.before, each.after))
        for each in sorted(pages, key=lambda each: each.before - each.after)
    ]
    for used, held in (("held out", True), ("learned from", False)):
        some = [each for each in pages if each.held_out == held]
        if some:
            before, after = fmean(each.before for each in some), fmean(each.after for each in some)
            rows.append((f"mean of {len(some)}", used, *_change(before, after)))
    return rows


def _change(before: float, after: float) -> tuple[str, str, str]:
    return number(before), number(after), f"{after - before:+.3f}"


def notes_of(outcome: "Outcome", measure: str) -> list[str]:
    """Describe the table's measure, how far the weights moved, and how much they forgot."""
    tuned, (before, after) = outcome.tuned, outcome.generated
    start = outcome.manifest.lineage[-1].name
    notes = [
        f"{measure} at threshold {tuned.threshold:g}; {count_of(tuned.steps, 'step')}, {tuned.share:.0%} of "
        f"the way from {start}",
        f"generated pages, to see what was forgotten: IoU {before:.3f} before, {after:.3f} after",
    ]
    most = outcome.manifest.training["recipe"]["steps"]
    if tuned.steps < most:
        notes.insert(
            0, f"stopped after {tuned.steps} of {most} steps, because the held-out pages no longer gained"
        )
    if outcome.manifest.training["recipe"]["partial"]:
        was, now = (fmean(each.confluence[place] for each in outcome.pages) for place in (0, 1))
        notes.append(
            f"mean confluence of these pages: {was:.3f} before, {now:.3f} after. Partial marks cannot tell "
            "whether masks grew too far: look at them"
        )
    gains = [each.after - each.before for each in outcome.pages if each.held_out]
    if gains and fmean(gains) <= 0:
        notes.append(f"the held-out pages gained nothing: correct more pages, or keep {start}")
    if before - after > FORGETTING:
        notes.append("the new weights got worse on other pages")
    notes.append("use the new weights for the microscope of your pairs only, and the shipped ones for others")
    notes.append(f"licence: {outcome.manifest.licence}")
    return notes
