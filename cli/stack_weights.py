"""Name, find and fetch the models of a stack: the container's, and those of its models bucket."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from cytomask.errors import ModelUnusable
from cytomask.model_store import BAKED_IN, MODE
from cytomask.served_model import ServedModel, read_served_models

if TYPE_CHECKING:
    from cytomask.cli.stack import Stack

SHA256 = re.compile(r"[0-9a-f]{8,64}")
SHORT = re.compile(r"[0-9a-f]{4,7}")  # which another model may begin with too


def stored_model(stack: "Stack", named: str) -> ServedModel | None:
    """Find a model that the stack can serve: `baked-in`, or one of its bucket by name or sha256.

    Args:
        stack: whose bucket is looked through.
        named: a name, or the first eight or more digits of a sha256.

    Returns:
        None if there is none.

    Raises:
        ModelUnusable: there are several, or it is the beginning of a sha256 and has too few digits.
    """
    if named == BAKED_IN:
        return read_served_models()[MODE]
    held = list(stack.model_store.all())
    found = [
        each.served
        for each in held
        if each.name == named or (SHA256.fullmatch(named) and each.sha256.startswith(named))
    ]
    begun = [each.sha256 for each in held if SHORT.fullmatch(named) and each.sha256.startswith(named)]
    if begun and not found:
        raise ModelUnusable(
            f"{named} is too short for a sha256: give 8 digits or more, as in {begun[0][:12]}"
        )
    if len(found) > 1:
        several = ", ".join(each.sha256 for each in found)
        raise ModelUnusable(f"{named} is the name of several models: {several}; give the sha256 of one")
    return found[0] if found else None


@contextmanager
def fetched(stack: "Stack", sha256: str) -> Iterator[Path]:
    """Bring a model of the bucket into a folder for `Predictor` while the context lasts.

    Raises:
        ModelUnusable: it is missing or damaged.
    """
    with TemporaryDirectory(prefix="cytomask-") as folder:
        stack.model_store.fetch(sha256, Path(folder) / MODE)
        yield Path(folder)


def called(model: ServedModel) -> str:
    """Say a model's name and the beginning of its sha256."""
    return f"{model.name} ({model.sha256[:12]})"
