"""The factor that calibrates logits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cytomask.model.swin_unet import SwinUNet, SwinUNetConfig
from cytomask.training.calibrate import FACTORS, best_factor, main
from cytomask.training.checkpoints import load_network, save


@pytest.mark.parametrize("factor", [FACTORS[10], FACTORS[30]])
def test_the_factor_that_was_taken_away_is_found(factor: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, 200_000).astype(np.float32)
    cells = rng.random(logits.size) < 1 / (1 + np.exp(-logits))
    assert best_factor(logits / np.float32(factor), cells) == pytest.approx(factor, rel=0.07)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "run" / "swin_unet.safetensors"
    path.parent.mkdir()
    save(SwinUNet(SwinUNetConfig(width=16, depths=(2,), half_width=4, quarter_width=8)), path)
    return path


def test_all_logits_are_scaled_by_one_factor(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (230, 240), np.uint8)
    for folder, pixels in (("i", grey), ("m", (grey > 127).astype(np.uint8) * 255)):
        (tmp_path / folder).mkdir()
        Image.fromarray(pixels).save(tmp_path / folder / "a.png")
    scaled = tmp_path / "made" / "scaled.safetensors"
    given = [str(weights), "pairs:i:m", "--mode", "native", "--data", str(tmp_path), "--out", str(scaled)]
    assert main(given) == 0
    factor = float(capsys.readouterr().out.rpartition(" times ")[2])
    tile = torch.randn(1, 1, 288, 288)
    with torch.inference_mode():
        before, after = (load_network(path).eval()(tile) for path in (weights, scaled))
    assert factor != 1
    np.testing.assert_allclose(after, before * factor, rtol=0.01, atol=1e-4)


def test_a_failed_calibration_ends_in_a_sentence(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(
            [
                str(weights),
                "pairs:i:m",
                "--mode",
                "native",
                "--data",
                str(tmp_path),
                "--out",
                str(tmp_path / "x"),
            ]
        )
        == 1
    )
    assert "cannot calibrate: " in capsys.readouterr().err
