"""Make a checkpoint the weights that serve, if it scores no lower than those it replaces.

`python -m cytomask.training.promote CHECKPOINT SOURCE… --data DIR --name NAME` exports the checkpoint. It
scores the checkpoint and the shipped weights on the same images with the predictor that serves, in the mode
that the checkpoint was trained for. Then it replaces that mode's weights, manifest and checkpoint and the
card's scores, all of them or none.
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from cytomask.model.export import export, load_checkpoint, mode_of, read_lineage, write_manifest
from cytomask.model.predictor import (
    MANIFEST,
    WEIGHTS,
    Ancestor,
    Manifest,
    Mode,
    Predictor,
    WeightsError,
    page_hash,
    read_manifest,
    read_manifests,
    served_modes,
)
from cytomask.training.evaluate import Scored, mean_iou, score_source, score_table, summarise
from cytomask.training.sources import read_source

CHECKPOINT_FILE = "swin_unet.safetensors"
CARD = "MODEL_CARD.md"
SCORES_BEGIN, SCORES_END = "<!-- scores -->", "<!-- /scores -->"


class LowerScore(Exception):
    """The candidate scores lower than the weights that it would replace. Nothing was changed."""


@dataclass(frozen=True)
class Candidate:
    """A checkpoint, and what its manifest will say about it.

    Attributes:
        checkpoint: the swin_unet.safetensors of a training run.
        training: that run's configuration.
        threshold: default probability that is cell, 0..1.
        training_data, licence: the sources, and the licence that follows from theirs; if empty, those of the
            replaced weights.
    """

    checkpoint: Path
    name: str
    training: dict[str, Any]
    threshold: float = 0.5
    training_data: Sequence[str] = ()
    licence: str = ""

    @property
    def mode(self) -> Mode:
        """The mode that it was trained for."""
        return mode_of(self.training)


def promote(
    candidate: Candidate, weights: Path, data: Path, sources: Sequence[str], reported: Sequence[str] = ()
) -> str:
    """Replace the weights, or raise and leave them untouched.

    Args:
        candidate: the weights to serve.
        weights: the folder that serves, with one below it for each mode; missing ones are made.
        data: folder of the sources.
        sources: both are scored on these, and compared by the mean IoU over all their images.
        reported: the candidate alone is scored on these, after it has passed, for manifest and model card.

    Returns:
        The outcome, in a sentence.

    Raises:
        LowerScore: the candidate scores lower.
        ValueError: the checkpoint is not a Swin-UNet, a source does not exist, or data and licence are not
            given although the replaced weights were trained on other images.
        FileNotFoundError: a file of a source is missing.
        WeightsError: the folder holds weights that do not serve.
    """
    mode = candidate.mode
    serving = Predictor(weights, modes=[mode]) if mode in served_modes(weights) else None
    lineage = read_lineage(candidate.checkpoint)
    training_data, licence = _provenance(candidate, lineage, serving.manifests[mode] if serving else None)
    network = load_checkpoint(candidate.checkpoint)
    weights.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(".partial", "promotion-", weights.parent) as name:
        staging = Path(name)
        manifest = export(
            network,
            staging / mode,
            name=candidate.name,
            threshold=candidate.threshold,
            training=candidate.training,
            training_data=training_data,
            licence=licence,
            scores={},
            lineage=lineage,
        )
        predictor = Predictor(staging, modes=[mode])
        scored = {source: score_source(predictor, data, source) for source in sources}
        outcome = _compare(manifest, _joined(scored), serving, data, sources)
        scored |= {
            source: score_source(predictor, data, source) for source in reported if source not in scored
        }
        scores = {source: summarise(images) for source, images in scored.items()}

        manifest = msgspec.structs.replace(
            manifest, scores=scores, learned_pages=learned_pages(candidate.training, lineage, data)
        )
        write_manifest(manifest, staging / mode)
        shutil.copyfile(candidate.checkpoint, staging / mode / CHECKPOINT_FILE)
        card = weights / CARD
        text = card.read_text() if card.exists() else ""
        (staging / CARD).write_text(
            fill_card(text, _tables(read_manifests(weights, served_modes(weights)) | {mode: manifest}))
        )
        install(staging, weights)
    return outcome


def _tables(manifests: Mapping[Mode, Manifest]) -> str:
    return "\n\n".join(score_table({mode: each}, each.scores) for mode, each in manifests.items())


def _provenance(
    candidate: Candidate, lineage: Sequence[Ancestor], replaced: Manifest | None
) -> tuple[list[str], str]:
    """Choose training data and licence: those of the replaced weights only if both saw the same images."""
    if candidate.training_data and candidate.licence:
        return list(candidate.training_data), candidate.licence
    if replaced is None or _images_of(candidate.training, lineage) != _images_of(
        replaced.training, replaced.lineage
    ):
        raise ValueError(
            f"{candidate.name} replaces no weights that were trained on the same images, so its data and "
            "licence are unknown; give --trained-on and --licence"
        )
    return list(candidate.training_data) or replaced.training_data, candidate.licence or replaced.licence


def _images_of(training: Mapping[str, Any], lineage: Sequence[Ancestor] = ()) -> tuple[set[str], set[str]]:
    """Return the sources of a run and of all that it began from, and the images that the run left out."""
    inherited = {source for ancestor in lineage for source in ancestor.training_data}
    return inherited | set(training.get("train", ())), set(training.get("hold_out", ()))


def learned_pages(training: Mapping[str, Any], lineage: Sequence[Ancestor], data: Path) -> list[str]:
    """Hash the pages that a run and those before it learned from, in order.

    Generated pages have no hash, nor have sources that are not in `data`.

    Args:
        training: the run's configuration.
        lineage: the weights that the run began from.
        data: folder of the sources.
    """
    sources, left_out = _images_of(training, lineage)
    hashes = set()
    for source in sources:
        if source.startswith("empty:"):
            continue
        try:
            samples = read_source(data, source)
        except (FileNotFoundError, ValueError):  # on the machine that trained, or a sentence about a release
            continue
        hashes |= {page_hash(sample.read()[0]) for sample in samples if sample.name not in left_out}
    return sorted(hashes)


def _compare(
    manifest: Manifest,
    images: Sequence[Scored],
    serving: Predictor | None,
    data: Path,
    sources: Sequence[str],
) -> str:
    """Compare the candidate's score with that of the weights that serve; raise LowerScore if it is lower."""
    mode = manifest.mode
    iou = mean_iou(images, mode)
    if serving is None:
        return f"{manifest.name} is promoted: its {mode} mean IoU on {len(images)} images is {iou:.4f}"
    serving_iou = mean_iou(_joined({source: score_source(serving, data, source) for source in sources}), mode)
    both = (
        f"its {mode} mean IoU on {len(images)} images is {iou:.4f}, "
        f"that of {serving.manifests[mode].name} on the same is {serving_iou:.4f}"
    )
    if iou < serving_iou:
        raise LowerScore(f"{manifest.name} is not promoted: {both}; nothing was changed")
    return f"{manifest.name} is promoted: {both}"


def _joined(scored: Mapping[str, Sequence[Scored]]) -> list[Scored]:
    return [image for images in scored.values() for image in images]


def fill_card(text: str, table: str) -> str:
    """Put the table between the model card's markers, or at its end in a section of its own.

    Raises:
        ValueError: one marker without the other, or in the wrong order.
    """
    section = f"{SCORES_BEGIN}\n{table}\n{SCORES_END}"
    if SCORES_BEGIN not in text and SCORES_END not in text:
        return f"{text.rstrip()}\n\n## Scores\n\n{section}\n".lstrip()
    before, begin, rest = text.partition(SCORES_BEGIN)
    _, end, after = rest.partition(SCORES_END)
    if not (begin and end):
        raise ValueError(f"{CARD} needs {SCORES_BEGIN} and, below it, {SCORES_END}; mend the card")
    return before + section + after


def install(staging: Path, weights: Path) -> None:
    """Move the files below one folder into another, all of them or none.

    The manifest comes last. If the machine stops in between, its sha256 does not match the weights, and the
    predictor serves neither.
    """
    files = [path.relative_to(staging) for path in sorted(staging.rglob("*")) if path.is_file()]
    files.sort(key=lambda file: file.name == MANIFEST)
    with tempfile.TemporaryDirectory(".partial", "replaced-", weights.parent) as name:
        kept = Path(name)
        replaced = [file for file in files if (weights / file).exists()]
        for file in replaced:
            (kept / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(weights / file, kept / file)
        try:
            for file in files:
                (weights / file).parent.mkdir(parents=True, exist_ok=True)
                (staging / file).replace(weights / file)
        except BaseException:
            for file in files:
                if file in replaced:
                    (kept / file).replace(weights / file)
                else:
                    (weights / file).unlink(missing_ok=True)
            raise


def flattered(name: str, training: Mapping[str, Any], data: Path, sources: Sequence[str]) -> list[str]:
    """Return a sentence for each scored source that a model was trained on.

    Args:
        name: of the model.
        training: its `train` names sources, its `hold_out` the images of these that were left out.
        data: folder of the sources.
        sources: their images are scored.
    """
    trained_on, held_out = _images_of(training)
    sentences = []
    for source in sources:
        if source in trained_on:
            samples = read_source(data, source)
            seen = sum(sample.name not in held_out for sample in samples)
            if seen:
                sentences.append(
                    f"{name} was trained on {seen} of the {len(samples)} images of {source}, so its score "
                    "there is too high"
                )
    return sentences


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line of the promotion."""
    parser = argparse.ArgumentParser(
        description="Make a checkpoint the weights that serve, if it scores no lower."
    )
    parser.add_argument("checkpoint", type=Path, help="swin_unet.safetensors of a training run")
    parser.add_argument("sources", nargs="+", help="images to compare candidate and shipped weights on")
    parser.add_argument("--data", type=Path, required=True, help="folder of the sources")
    parser.add_argument("--name", required=True, help="name of the model, with its version")
    parser.add_argument("--config", type=Path, help="the run's config.json; default: beside the checkpoint")
    parser.add_argument("--threshold", type=float, default=0.5, help="default probability that is cell")
    parser.add_argument(
        "--report",
        action="append",
        default=[],
        metavar="SOURCE",
        help="images to score for manifest and model card once the candidate has passed; repeatable",
    )
    parser.add_argument(
        "--trained-on",
        action="append",
        default=[],
        metavar="TEXT",
        help="a training source and its licence, repeatable; default: the shipped weights', if trained alike",
    )
    parser.add_argument(
        "--licence", default="", help="licence that follows from the sources'; default: as for --trained-on"
    )
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder to promote into")
    parsed = parser.parse_args(arguments)
    # A terminated promotion is undone as an interrupted one is.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        config = parsed.config or parsed.checkpoint.with_name("config.json")
        training = json.loads(config.read_text())
        candidate = Candidate(
            parsed.checkpoint, parsed.name, training, parsed.threshold, parsed.trained_on, parsed.licence
        )
        models = [(parsed.name, training)]
        if candidate.mode in served_modes(parsed.weights):
            serving = read_manifest(parsed.weights / candidate.mode, candidate.mode)
            models.append((serving.name, serving.training))
        for name, trained in models:
            for sentence in flattered(name, trained, parsed.data, parsed.sources):
                print(f"warning: {sentence}", file=sys.stderr)
        print(promote(candidate, parsed.weights, parsed.data, parsed.sources, parsed.report))
    except (LowerScore, OSError, ValueError, WeightsError) as error:
        sys.exit(f"promote: {error}")
    except KeyboardInterrupt:
        print("promote: stopped", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
