"""`cytomask promote`: compare weights on a stack's own ground truths, then switch the stack to them."""

from argparse import Namespace
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from cytomask.cli.console import complain, say
from cytomask.cli.files import count_of
from cytomask.cli.options import Commands, Parser, add_command, count, moment, on_stack
from cytomask.cli.tables import number, print_table

if TYPE_CHECKING:
    from cytomask.cli.scored_pages import ScoredImage
    from cytomask.cli.stack import Stack
    from cytomask.errors import ModelUnusable
    from cytomask.model.predictor import Predictor
    from cytomask.served_model import ServedModel

EXAMPLES = (
    "cytomask promote my-microscope                         # shows scores and the change, then asks",
    "cytomask promote baked-in                              # back to the weights in the container",
    "cytomask promote 9f3c62d1                              # back to a model that was promoted before",
)
DEFAULT_LIMIT = 20
MOST_PLATES = 10  # plates listed by name


def add_parser(commands: "Commands[Parser]") -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "promote",
        "switch a stack to other weights",
        on_stack(run_promote),
        EXAMPLES,
        description="Uploads the model unless the stack has it, scores it and the current one on the\n"
        "stack's newest ground truths, shows the update of the stack and asks. Plates that have begun\n"
        "keep their model. Existing masks stay; `cytomask backfill` makes new ones.",
        on_a_stack=True,
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a name from `cytomask models`, a folder, name or sha256 (8 digits or more) of a model in the "
        "stack, or baked-in",
    )
    parser.add_argument(
        "--limit",
        type=count,
        default=DEFAULT_LIMIT,
        metavar="N",
        help=f"score at most this many images; default: {DEFAULT_LIMIT}",
    )
    parser.add_argument("--group", metavar="G", help="score only images of this group")
    parser.add_argument(
        "--since", type=moment, metavar="TIME", help="score only images segmented since: 7d or a date"
    )
    parser.add_argument(
        "--no-switch", action="store_true", help="upload and score, but keep the current model"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")


@dataclass(frozen=True)
class Compared:
    """The IoU of one image with the current model and with the new one.

    Attributes:
        learned_by: the models that learned from the image, `present` and `new`.
    """

    image: str
    present: float
    new: float
    learned_by: tuple[str, ...] = ()


def run_promote(stack: "Stack", arguments: Namespace) -> int:
    """Promote a model; return 1 if the user declined, 2 if the model cannot be used."""
    from cytomask.errors import ModelUnusable
    from cytomask.model.predictor import WeightsError

    if not stack.models_bucket:
        complain(f"the stack `{stack.name}` has no models bucket; deploy this release first")
        return 2
    try:
        with ExitStack() as opened:
            return _promote(stack, arguments, opened)
    except (ModelUnusable, WeightsError, OSError) as error:
        complain(f"{arguments.model} cannot be promoted: {error}")
        return 2


def _promote(stack: "Stack", arguments: Namespace, opened: ExitStack) -> int:
    from cytomask.cli.attach import change_parameter
    from cytomask.cli.rows import Search
    from cytomask.cli.scored_pages import scored_images
    from cytomask.cli.stack_weights import called
    from cytomask.model_store import BAKED_IN, MODE

    new, predictor = open_model(stack, arguments.model, opened)
    value = BAKED_IN if arguments.model == BAKED_IN else new.sha256
    present, present_predictor = open_present(stack, opened)
    say(f"present: {called(present)}")
    say(f"new:     {called(new)}")
    say(f"         {predictor.manifests[MODE].licence}")
    if new.sha256 != present.sha256:
        search = Search(status="SUCCEEDED", group=arguments.group, since=arguments.since)
        found = scored_images(stack, search, arguments.limit)
        show_comparison([compare(image, present_predictor, predictor) for image in found])
    if arguments.no_switch:
        say(f"uploaded; `cytomask promote {new.sha256[:12]}` switches to it")
        return 0
    if value == stack.model:
        say(f"the stack `{stack.name}` already segments with it")
        return 0
    kept = keep_plates(stack, present)
    say("the update sets the parameter Model; it lists every function, and what refers to a function")
    if not change_parameter(stack, "Model", value, ask=not arguments.yes):
        return 1
    say(f"the stack `{stack.name}` segments with {called(new)} from now on")
    say_kept(new, kept)
    say(f"existing masks stay; `cytomask backfill s3://{stack.input_bucket}` makes new ones")
    say(f"to go back: `cytomask promote {stack.model[:12]}`")
    return 0


def open_model(stack: "Stack", named: str, opened: ExitStack) -> "tuple[ServedModel, Predictor]":
    """Find a model, upload it if only this computer has it, and load it.

    Raises:
        ModelUnusable, WeightsError: nothing has that name, or it cannot be served.
        OSError: a file cannot be read.
    """
    from cytomask.cli.stack_weights import called, stored_model
    from cytomask.cli.weights import find_weights
    from cytomask.errors import ModelUnusable
    from cytomask.model.predictor import WeightsError, network_folder
    from cytomask.model_store import MODE
    from cytomask.served_model import ServedModel

    stored = None if Path(named).is_dir() else stored_model(stack, named)
    if stored:
        try:
            return stored, open_stored(stack, stored, opened)
        except ModelUnusable as error:
            weights = own_copy(stored, error)
            complain(f"{error}; this computer's copy replaces it")
    else:
        try:
            weights = find_weights(named, MODE)
        except WeightsError as error:
            held = ", ".join(called(each.served) for each in stack.model_store.all()) or "none"
            raise WeightsError(f"{error}; the stack's bucket holds: {held}") from error
    predictor = _loaded(weights)  # before anything is uploaded
    manifest, folder = predictor.manifests[MODE], network_folder(weights, MODE)
    if not stack.model_store.has(folder):
        say(f"uploading {folder} to {stack.model_store.uri(manifest.sha256)}")
        stack.model_store.add(folder)
    return ServedModel(manifest.sha256, manifest.threshold, manifest.name), predictor


def own_copy(model: "ServedModel", error: "ModelUnusable") -> Path:
    """Return this computer's folder of a model whose copy in the bucket cannot be used, for this reason.

    Raises:
        ModelUnusable: this computer does not have it.
    """
    from cytomask.cli.weights import models_at_hand
    from cytomask.errors import ModelUnusable

    for each in models_at_hand():
        manifest = each.manifest
        if manifest and (manifest.sha256, manifest.name) == (model.sha256, model.name) and not each.fault:
            return each.folder
    raise ModelUnusable(
        f"{error}; `cytomask promote FOLDER` with the model's folder uploads it again"
    ) from error


def open_stored(stack: "Stack", model: "ServedModel", opened: ExitStack) -> "Predictor":
    """Load a model of the stack, or the container's from this computer; raises like `open_model`."""
    from cytomask.cli.stack_weights import fetched
    from cytomask.model.predictor import WEIGHTS
    from cytomask.model_store import MODE
    from cytomask.served_model import read_served_models

    if model.sha256 == read_served_models()[MODE].sha256:
        return _loaded(WEIGHTS)
    return _loaded(opened.enter_context(fetched(stack, model.sha256)))


def open_present(stack: "Stack", opened: ExitStack) -> "tuple[ServedModel, Predictor]":
    """Load the current model: the container's if the one that the stack names is unusable."""
    from cytomask.cli.stack_weights import stored_model
    from cytomask.errors import ModelUnusable
    from cytomask.model.predictor import WeightsError
    from cytomask.model_store import BAKED_IN

    for named in (stack.model, BAKED_IN):
        try:
            model = stored_model(stack, named)
            if model:
                return model, open_stored(stack, model, opened)
            error: Exception | str = f"{stack.model_store.uri(named)} is not there"
        except (ModelUnusable, WeightsError) as found:
            error = found
        complain(f"the stack's model cannot be used, so this compares with the container's: {error}")
    raise ModelUnusable(f"neither {stack.model} nor the weights in this package can be used")


def _loaded(weights: Path) -> "Predictor":
    from cytomask.model.predictor import Predictor
    from cytomask.model_store import MODE

    predictor = Predictor(weights, modes=[MODE])
    predictor.wait()
    return predictor


def compare(image: "ScoredImage", present: "Predictor", new: "Predictor") -> Compared:
    """Score both models on an image, over all its pages; it taught a model if one of its pages did."""
    from cytomask.model.predictor import page_hash
    from cytomask.model_store import MODE

    pages = {page_hash(page.pixels) for page, _ in image.pages}
    models = {"present": present, "new": new}
    learned_by = tuple(
        name for name, model in models.items() if pages.intersection(model.manifests[MODE].learned_pages)
    )
    return Compared(image.uri, iou_of(image, present), iou_of(image, new), learned_by)


def iou_of(image: "ScoredImage", predictor: "Predictor") -> float:
    """Return the IoU of a model's masks with the truth, over the pixels of all pages."""
    from cytomask.metrics import Score, score

    total = Score(0, 0, 0)
    for page, truth in image.pages:
        total += score(predictor.predict(page.pixels).mask, truth)
    return total.iou


def show_comparison(compared: Sequence[Compared]) -> None:
    """Print the scores by image, the worst change first, and their means.

    Images from which a model learned flatter it, so the others have a mean of their own.
    """
    if not compared:
        complain("no image of the stack has a ground truth, so the models cannot be compared here")
        return
    unseen = [each for each in compared if not each.learned_by]
    learned = ("learned by",) if len(unseen) < len(compared) else ()
    rows = [
        (
            number(each.present),
            number(each.new),
            _change(each),
            *(" and ".join(each.learned_by) for _ in learned),
            each.image,
        )
        for each in sorted(compared, key=lambda each: each.new - each.present)
    ]
    print_table(("present", "new", "change", *learned, "image"), rows)
    mean = say_mean(compared, "")
    if not unseen:
        complain("a model learned from each of these images, so its scores here are too high for new images")
    elif len(unseen) < len(compared):
        mean = say_mean(unseen, " that neither model learned from")
    if mean.new < mean.present:
        complain("the new model scores lower on the stack's own ground truths")


def say_mean(compared: Sequence[Compared], which: str) -> Compared:
    """Print and return the mean scores of some images."""
    mean = Compared("", fmean(each.present for each in compared), fmean(each.new for each in compared))
    better = sum(each.new > each.present for each in compared)
    say(
        f"mean IoU of {count_of(len(compared), 'image')}{which}: {number(mean.present)} -> "
        f"{number(mean.new)} ({_change(mean)}); {better} better, {len(compared) - better} not"
    )
    return mean


def _change(compared: Compared) -> str:
    return f"{compared.new - compared.present:+.3f}"


def keep_plates(stack: "Stack", present: "ServedModel") -> "list[tuple[str, ServedModel]]":
    """Pin plates of earlier releases, which have no pin, to the current model; return all pins."""
    from cytomask.plate_rows import Plates

    plates = [each.plate for each in Plates(stack.dynamodb, stack.table).summaries()]
    return [(plate, stack.pins.begin(plate, present)) for plate in plates]


def say_kept(new: "ServedModel", kept: "Iterable[tuple[str, ServedModel]]") -> None:
    """Print the plates that keep another model."""
    others = [f"{plate} ({model.name})" for plate, model in kept if model.sha256 != new.sha256]
    if others:
        more = f" and {len(others) - MOST_PLATES} more" if len(others) > MOST_PLATES else ""
        say(f"plates that keep the model they began with: {', '.join(others[:MOST_PLATES])}{more}")
        say("`cytomask plate NAME --pin MODEL` changes a plate's model")
