"""Make a model from a few corrected pages: the work behind `cytomask finetune`.

It scores the start weights, trains, exports, scores again, and writes a model: a folder with `manifest.json`,
the ONNX file and `swin_unet.safetensors`.
"""

import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec

from cytomask import metrics
from cytomask.model.export import (
    ONNX_FILE,
    check_licence,
    export,
    join_licences,
    load_checkpoint,
    write_manifest,
)
from cytomask.model.predictor import (
    MANIFEST,
    Ancestor,
    Manifest,
    Mode,
    Predictor,
    WeightsError,
    check_weights,
    network_folder,
    page_hash,
    read_manifest,
)
from cytomask.model.preprocess import normalise
from cytomask.model.quality import describe
from cytomask.model.swin_unet import SwinUNet, SwinUNetConfig
from cytomask.samples.fields import phase_contrast_field
from cytomask.training.checkpoints import lineage_from, save
from cytomask.training.crops import Labelled
from cytomask.training.splits import choose_held_out
from cytomask.training.tuner import Recipe, Step, Tuned, one_thread, tune
from cytomask.truths.pairs import Page, PairsError

CHECKPOINT_FILE = "swin_unet.safetensors"
REPORT = "report.html"  # the command writes it
STATE_FOLDER = "unfinished"  # in the model's folder, until the run ends
GENERATED_SEEDS = range(100, 104)  # of pages that neither the start weights nor this run learned from
HELD_OUT, TRAINED, GENERATED = "held-out pages", "pages that it learned from", "generated pages"
DIGITS = 4


@dataclass(frozen=True)
class Request:
    """What to make.

    Attributes:
        pages: pages to learn from or to hold out.
        out: folder of the new model; it must not hold a model yet.
        name: name of the new model.
        start: folder of the model to begin from.
        recipe: how to train.
        licence: licence of the new weights; if empty, it follows from the licences of start and pairs.
        pairs_licence: licence of images and ground truths; empty if they are the user's own.
        about: one line about the pages, for the manifest.
    """

    pages: Sequence[Page]
    out: Path
    name: str
    start: Path
    recipe: Recipe
    licence: str = ""
    pairs_licence: str = ""
    about: str = ""


@dataclass(frozen=True)
class Split:
    """What each page is used for, in the order of the request's pages.

    Attributes:
        held_out: whether it is held out from training.
        learned: whether the start weights have learned from it already.
        scores: the start weights' score on it.
    """

    held_out: Sequence[bool]
    learned: Sequence[bool]
    scores: Sequence[float]


@dataclass(frozen=True)
class PageScore:
    """A page's score before and after: IoU, or the share of marked pixels found if the marks are partial.

    Attributes:
        confluence: confluence of its mask before and after, 0..1.
    """

    page: Page
    held_out: bool
    before: float
    after: float
    confluence: tuple[float, float]


@dataclass(frozen=True)
class Outcome:
    """A new model and how it compares with its start.

    Attributes:
        folder, manifest: folder and manifest of the new model.
        tuned: how the training ended.
        pages: each page with its scores.
        generated: mean IoU on generated pages before and after; a drop shows what was forgotten.
        before, after: predictors of the start weights and of the new ones.
    """

    folder: Path
    manifest: Manifest
    tuned: Tuned
    pages: Sequence[PageScore]
    generated: tuple[float, float]
    before: Predictor
    after: Predictor


def finetune(
    request: Request,
    *,
    begun: Callable[[Split], None] = lambda split: None,
    report: Callable[[Step], None] = lambda step: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Make the model.

    Args:
        request: what to make.
        begun: called before training.
        report: called after each training step.
        stopped: called after each step; return True to stop. The same request resumes later.

    Raises:
        Interrupted: `stopped` returned True.
        PairsError: the pages teach nothing.
        WeightsError: the start model cannot be used.
        ValueError: the licence claims more than start and pairs allow, or `out` holds a model or the state
            of another run.
    """
    recipe = request.recipe
    require_free(request.out)
    check_pages(request.pages, partial=recipe.partial)
    network, started = read_start(request.start, recipe.mode)
    lineage = lineage_from(network_folder(request.start, recipe.mode) / CHECKPOINT_FILE)
    joined = join_licences(started.licence, request.pairs_licence)
    licence = request.licence or joined
    check_licence(request.name, licence, [Ancestor("its pairs", "", [], request.pairs_licence), *lineage])

    before = Predictor(request.start, modes=[recipe.mode])
    scored = [_score(before, page, recipe) for page in request.pages]
    scores = [score for score, _ in scored]
    hashes = [page_hash(page.pixels) for page in request.pages]
    learned = [each in started.learned_pages for each in hashes]
    # Partial marks name only cells, so a mask that is all cell would score best: hold out nothing.
    held_places = [] if recipe.partial else choose_held_out(request.pages, scores, learned)
    held_out = [place in held_places for place in range(len(request.pages))]
    begun(Split(held_out, learned, scores))

    labelled = [_labelled(page, recipe) for page in request.pages]
    tuned = tune(
        network,
        [item for item, held in zip(labelled, held_out, strict=True) if not held],
        [item for item, held in zip(labelled, held_out, strict=True) if held],
        recipe,
        request.out / STATE_FOLDER,
        report=report,
        stopped=stopped,
    )
    request.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(".partial", "model-", request.out) as name:
        staging = Path(name)
        save(tuned.network, staging / CHECKPOINT_FILE, lineage)
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it asks for torchvision; we need none
        with warnings.catch_warnings(), one_thread():
            warnings.simplefilter("ignore")  # torch's exporter calls deprecated parts of torch
            manifest = export(
                tuned.network,
                staging,
                name=request.name,
                threshold=tuned.threshold,
                training=_training(request, tuned, held_out),
                training_data=[_data(request), *started.training_data],
                licence=licence,
                scores={},
                lineage=lineage,
            )
        after = Predictor(staging, modes=[recipe.mode])
        pages = []
        for page, held, (score, was) in zip(request.pages, held_out, scored, strict=True):
            reached, now = _score(after, page, recipe)
            pages.append(PageScore(page, held, score, reached, (was, now)))
        generated = (_generated_iou(before, recipe.mode), _generated_iou(after, recipe.mode))
        manifest = msgspec.structs.replace(
            manifest,
            scores=_scores(pages, generated, recipe),
            known_pages=[*started.known_pages, *map(_described, labelled)],
            learned_pages=sorted(
                {*started.learned_pages}
                | {each for each, held in zip(hashes, held_out, strict=True) if not held}
            ),
        )
        write_manifest(manifest, staging)
        for file in (CHECKPOINT_FILE, manifest.file, MANIFEST):  # manifest last: it marks a complete model
            (staging / file).replace(request.out / file)
    shutil.rmtree(request.out / STATE_FOLDER, ignore_errors=True)
    return Outcome(request.out, manifest, tuned, pages, generated, before, after)


def require_free(folder: Path) -> None:
    """Raise ValueError if the folder holds a model or one of its files, so that nothing is overwritten."""
    for place in (folder, folder / "native", folder / "resize"):
        for name in (MANIFEST, CHECKPOINT_FILE, ONNX_FILE, REPORT):
            if (place / name).exists():
                raise ValueError(
                    f"{place} holds a model already: {name} is there and is kept; choose another --name "
                    "or --out"
                )


def check_pages(pages: Sequence[Page], *, partial: bool) -> None:
    """Raise PairsError if pages teach nothing; the message names all of them."""
    empty = [page.name for page in pages if not page.cells.any()]
    flat = [page.name for page in pages if page.pixels.min() == page.pixels.max()]
    faults = []
    if len(empty) == len(pages):
        faults.append("none of the masks has a cell in it; mark the cells first")
    elif partial and empty:
        faults.append(
            f"no cell is marked in {', '.join(empty)}; with --partial such a page says nothing: leave it out"
        )
    if flat:
        faults.append(f"all pixels of {', '.join(flat)} are the same; leave it out")
    if faults:
        raise PairsError("; ".join(faults))


def read_start(folder: Path, mode: Mode) -> tuple[SwinUNet, Manifest]:
    """Load the network and the manifest of a model to begin from.

    Raises:
        WeightsError: a file is missing, or the files do not belong together.
    """
    place = network_folder(folder, mode)
    manifest = read_manifest(place, mode)
    check_weights(place, manifest)
    try:
        network = load_checkpoint(place / CHECKPOINT_FILE)
        described = SwinUNetConfig.from_dict(manifest.architecture)
    except (OSError, ValueError) as error:
        raise WeightsError(f"training cannot begin from {place}: {error}") from error
    if network.config != described:
        raise WeightsError(
            f"{place / CHECKPOINT_FILE} is a network of another architecture than {MANIFEST} beside it "
            "describes; take both from one model"
        )
    return network, manifest


def _labelled(page: Page, recipe: Recipe) -> Labelled:
    return Labelled(page.name, normalise(page.pixels), page.cells, page.cells if recipe.partial else None)


def _described(page: Labelled) -> list[float]:
    """Describe a page by texture and grey values, so that similar pages are not flagged as unusual."""
    return [round(float(value), DIGITS) for value in describe(page.pixels)]


def _score(predictor: Predictor, page: Page, recipe: Recipe) -> tuple[float, float]:
    """Return a page's score, as `PageScore` has it, and the confluence of its mask."""
    prediction = predictor.predict(page.pixels, recipe.mode)
    score = metrics.score(prediction.mask, page.cells)
    return score.recall if recipe.partial else score.iou, prediction.confluence


def _generated_iou(predictor: Predictor, mode: Mode) -> float:
    fields = [phase_contrast_field(seed) for seed in GENERATED_SEEDS]
    return fmean(metrics.score(predictor.predict(each.pixels, mode).mask, each.cells).iou for each in fields)


def _training(request: Request, tuned: Tuned, held_out: Sequence[bool]) -> dict[str, Any]:
    """Describe the run for the manifest."""
    names = [page.name for page in request.pages]
    return {
        "name": request.name,
        "mode": request.recipe.mode,
        "train": {f"pairs:{request.name}": 1.0},
        "learned_from": [name for name, held in zip(names, held_out, strict=True) if not held],
        "held_out": [name for name, held in zip(names, held_out, strict=True) if held],
        "recipe": msgspec.to_builtins(request.recipe),
        "steps_taken": tuned.steps,
        "share_of_the_way": tuned.share,
        "logit_factor": round(tuned.factor, DIGITS),
    }


def _data(request: Request) -> str:
    """Describe the pages in one line for the manifest's `training_data`."""
    about = request.about or "the user's own"
    return f"{about}: {len(request.pages)} pages, {request.pairs_licence or 'no licence stated'}"


def _scores(pages: Sequence[PageScore], generated: tuple[float, float], recipe: Recipe) -> dict[str, Any]:
    """Return mean scores by kind of page, for `Manifest.scores`; `before` holds the start's score.

    They are not rounded, so that every command shows the same three digits.
    """
    found: dict[str, Any] = {}
    for name, held in ((HELD_OUT, True), (TRAINED, False)):
        some = [each for each in pages if each.held_out == held]
        if some:
            found[name] = {
                "images": len(some),
                "mean_recall" if recipe.partial else "mean_iou": {
                    recipe.mode: fmean(each.after for each in some)
                },
                "before": fmean(each.before for each in some),
            }
    found[GENERATED] = {
        "images": len(GENERATED_SEEDS),
        "mean_iou": {recipe.mode: generated[1]},
        "before": generated[0],
    }
    return found
