"""Masks for images that have none, by networks that agree."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cytomask import images
from cytomask.model.preprocess import TILE, Pixels
from cytomask.model.swin_unet import SwinUNet
from cytomask.samples.fields import phase_contrast_field
from cytomask.training.pseudo_label import agreed_probability, main, teacher
from cytomask.training.train import save


def bright(tiles: Pixels) -> Pixels:
    """A network that calls what is bright cell, and knows no up and down."""
    return tiles * 4


def leftward(tiles: Pixels) -> Pixels:
    """A network that sees cells in the left half of whatever it is shown."""
    logits = np.full_like(tiles, -20)
    logits[..., : TILE // 2] = 20
    return logits


def page() -> Pixels:
    return np.random.default_rng(0).normal(size=(TILE, TILE)).astype(np.float32)


def test_the_views_are_put_back_upright_before_they_are_averaged() -> None:
    expected = 1 / (1 + np.exp(-4 * page()))
    np.testing.assert_allclose(agreed_probability(page(), [bright]), expected, atol=1e-5)


def test_what_depends_on_the_orientation_is_averaged_away() -> None:
    np.testing.assert_allclose(agreed_probability(page(), [leftward]), 0.5, atol=1e-5)


def test_teachers_count_alike() -> None:
    both = agreed_probability(page(), [bright, leftward])
    np.testing.assert_allclose(both, agreed_probability(page(), [bright]) / 2 + 0.25, atol=1e-5)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with one image of another height than width."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(phase_contrast_field(3, 240, 300).pixels).save(folder / "field.tif")
    return folder


def test_every_image_gets_a_mask_from_checkpoints_and_onnx_files_together(
    network: SwinUNet, weights: Path, pictures: Path, tmp_path: Path
) -> None:
    checkpoint, onnx = tmp_path / "run.safetensors", weights / "native" / "swin_unet.onnx"
    save(network, checkpoint)
    assert (
        main([str(checkpoint), str(onnx), "--images", str(pictures), "--out", str(tmp_path / "masks")]) == 0
    )
    (path,) = (tmp_path / "masks").iterdir()
    mask = images.read_page(path).pixels
    assert (path.name, mask.shape) == ("field.png", (240, 300))
    assert set(np.unique(mask)) == {0, 255}


@pytest.mark.parametrize("name", ["broken.onnx", "broken.safetensors"])
def test_a_file_that_is_no_network_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not a network")
    with pytest.raises(ValueError, match=rf"{name} holds no (network|weights)"):
        teacher(tmp_path / name)


def test_a_folder_without_images_is_refused(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(
            [
                str(weights / "native" / "swin_unet.onnx"),
                "--images",
                str(tmp_path),
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == 1
    )
    assert capsys.readouterr().err.startswith("cannot label: ")
