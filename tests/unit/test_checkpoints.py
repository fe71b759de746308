"""Weights carry their lineage."""

import hashlib
import json
from pathlib import Path

import msgspec
import pytest
from safetensors.torch import save_file

from cytomask.model.export import read_lineage
from cytomask.model.predictor import WEIGHTS, Ancestor, read_manifest
from cytomask.model.swin_unet import SwinUNet
from cytomask.training.checkpoints import lineage_from, save

OLDEST = Ancestor("oldest", "0" * 64, ["LIVECell"], "CC BY-NC 4.0")


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("lineage", [[], [OLDEST]])
def test_saved_weights_say_what_they_began_from(
    network: SwinUNet, tmp_path: Path, lineage: list[Ancestor]
) -> None:
    path = tmp_path / "weights.safetensors"
    save(network, path, lineage)
    assert read_lineage(path) == lineage
    (tmp_path / "any").touch()
    assert path.stat().st_mode == (tmp_path / "any").stat().st_mode  # others may copy the model


def test_a_run_that_begins_from_a_release_inherits_its_licence_and_data() -> None:
    release = WEIGHTS / "native" / "swin_unet.safetensors"
    manifest = read_manifest(WEIGHTS / "native", "native")
    *before, itself = lineage_from(release)
    assert before == manifest.lineage
    assert itself == Ancestor(manifest.name, sha256_of(release), manifest.training_data, manifest.licence)
    assert "NC" in itself.licence


def test_a_run_that_begins_from_another_inherits_its_lineage_and_its_sources(
    network: SwinUNet, tmp_path: Path
) -> None:
    path = tmp_path / "swin_unet.safetensors"
    save(network, path, [OLDEST])
    (tmp_path / "config.json").write_text(json.dumps({"name": "first", "train": {"livecell/train": 2}}))
    assert lineage_from(path) == [OLDEST, Ancestor("first", sha256_of(path), ["livecell/train"], "")]


def test_weights_without_a_lineage_are_refused(network: SwinUNet, tmp_path: Path) -> None:
    path = tmp_path / "found.safetensors"
    save_file(
        network.state_dict(), path, metadata={"config": json.dumps(msgspec.to_builtins(network.config))}
    )
    with pytest.raises(ValueError, match=r"found\.safetensors does not say which weights it began from"):
        lineage_from(path)
