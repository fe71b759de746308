"""Weights are averaged between those before and after a run."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cytomask.model.export import read_lineage
from cytomask.model.predictor import Ancestor
from cytomask.model.swin_unet import SwinUNet, SwinUNetConfig
from cytomask.training.average import main
from cytomask.training.checkpoints import save

START = Ancestor("before", "0" * 64, ["LIVECell"], "CC BY-NC 4.0")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two networks of the same sizes; the second began from the first."""
    sizes = SwinUNetConfig(16, (2,), half_width=4, quarter_width=8)
    paths = tmp_path / "before.safetensors", tmp_path / "after.safetensors"
    for seed, (path, lineage) in enumerate(zip(paths, ([], [START]), strict=True)):
        torch.manual_seed(seed)
        save(SwinUNet(sizes), path, lineage)
    return paths


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_every_weight_lies_on_the_line(pair: tuple[Path, Path], tmp_path: Path, share: float) -> None:
    out = tmp_path / "out" / "between.safetensors"
    assert main([*map(str, pair), "--share", str(share), "--out", str(out)]) == 0
    before, after = map(load_file, pair)
    for name, value in load_file(out).items():
        expected = before[name] + share * (after[name] - before[name])
        torch.testing.assert_close(value, expected.to(value.dtype))
    assert read_lineage(out) == [START]


def test_networks_of_other_sizes_are_refused(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(SwinUNet(SwinUNetConfig(16, (1,), half_width=4, quarter_width=8)), pair[0])
    given = [*map(str, pair), "--share", "0.5", "--out", str(tmp_path / "out.safetensors")]
    assert main(given) == 1
    assert "networks of different sizes" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()
