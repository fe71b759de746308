"""`cytomask models`: list the weights on this computer, their scores and the weights they began from."""

import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cytomask.cli.console import complain, say, say_all
from cytomask.cli.options import Commands, Parser, add_command
from cytomask.cli.tables import print_table

if TYPE_CHECKING:
    from cytomask.cli.weights import AtHand
    from cytomask.model.predictor import Ancestor

EXAMPLES = (
    "cytomask models                                        # shipped and fine-tuned weights",
    "cytomask models my-microscope                          # everything about one of them",
    "cytomask models --dir shared/models                    # the models in another folder",
)
HEADS = ("name", "mode", "sha256", "score", "began from", "folder")
DIGITS = 12  # digits of a sha256 to print
MEASURES = {"mean_iou": "IoU", "mean_recall": "recall"}  # recall if the marks of the pages were partial


def add_parser(commands: "Commands[Parser]") -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "models",
        "list the weights on this computer, shipped and fine-tuned",
        run,
        EXAMPLES,
        description="Fine-tuned weights are in the folder CYTOMASK_MODELS, or by default in your user data\n"
        "folder. The exit code is 1 if some of them cannot be used.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="show everything about these models")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="folder of fine-tuned models")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: Namespace) -> int:
    """Print a line for each model, or everything about the named ones."""
    from cytomask.cli.weights import models_at_hand, models_folder

    folder = arguments.dir or models_folder()
    if arguments.dir and not folder.is_dir():
        complain(f"{folder} is not a folder")
        return 2
    models = models_at_hand(folder)
    if missing := sorted(set(arguments.names) - {each.name for each in models}):
        complain(f"no model is called {', '.join(missing)}; `cytomask models` lists all models")
        return 2
    chosen = [each for each in models if not arguments.names or each.name in arguments.names]
    if arguments.json:
        say_all(json.dumps([_values(each) for each in chosen], indent=2, ensure_ascii=False))
    elif arguments.names:
        for each in chosen:
            for line in describe(each):
                say(line)
    else:
        print_table(HEADS, [_row(each) for each in chosen if not each.fault], ("score",))
        if not any(not each.shipped for each in models):
            complain(f"no fine-tuned models in {folder}; `cytomask finetune` makes one")
    broken = [each for each in chosen if each.fault]
    for each in broken:
        complain(f"{each.folder} cannot be used: {each.fault}")
    return 1 if broken else 0


def describe(model: "AtHand") -> Iterator[str]:
    """Yield lines that describe a model in full."""
    yield model.name
    if (manifest := model.manifest) is None:
        return
    yield f"  folder      {model.folder}"
    yield f"  mode        {model.mode}, threshold {manifest.threshold:g}"
    yield f"  sha256      {manifest.sha256}"
    for ancestor in reversed(_released(manifest.lineage)):
        yield f"  began from  {ancestor.name} (its safetensors: {ancestor.sha256[:DIGITS]})"
    for name, measure, score, before in _scores(manifest.scores, model.mode):
        was = "" if before is None else f", {before:.3f} before"
        yield f"  score       {name}: mean {measure} {score:.3f}{was}"
    for line in manifest.training_data:
        yield f"  data        {line}"
    yield f"  licence     {manifest.licence}"


def _scores(scores: dict[str, Any], mode: str) -> Iterator[tuple[str, str, float, float | None]]:
    """Yield data set, measure, score and the start weights' score, if the manifest has them."""
    for name, each in scores.items():
        for key, measure in MEASURES.items():
            score = each.get(key) if isinstance(each, dict) else None
            value = score.get(mode) if isinstance(score, dict) else score
            if isinstance(value, int | float):
                yield name, measure, float(value), each.get("before")


def _released(lineage: "list[Ancestor]") -> "list[Ancestor]":
    """Return the ancestors that were models; the others are stages of a training, such as `a2`.

    `--json` shows all of them. Only a model has a licence.
    """
    return [each for each in lineage if each.licence]


def _row(model: "AtHand") -> tuple[str, ...]:
    manifest = model.manifest
    assert manifest is not None  # models without a manifest have a fault, and get no row
    first = next(_scores(manifest.scores, model.mode), None)
    start = released[-1].name if (released := _released(manifest.lineage)) else "-"
    folder = "shipped" if model.shipped else str(model.folder)
    score = "{1} {2:.3f} on {0}".format(*first) if first else "-"
    return model.name, model.mode, manifest.sha256[:DIGITS], score, start, folder


def _values(model: "AtHand") -> dict[str, Any]:
    import msgspec

    known = msgspec.to_builtins(model.manifest) if model.manifest else {}
    about = {"name": model.name, "folder": str(model.folder), "mode": model.mode, "shipped": model.shipped}
    return about | {"fault": model.fault or None} | {key: known[key] for key in known if key not in about}
