"""Labels for images that have none, by networks that agree."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cytomask import images
from cytomask.model.preprocess import TILE, Pixels
from cytomask.model.swin_unet import SwinUNet
from cytomask.samples.fields import phase_contrast_field
from cytomask.training.checkpoints import save
from cytomask.training.labels import UNKNOWN_GREY
from cytomask.training.pseudo_label import label, main, probability_range, teacher


def bright(tiles: Pixels) -> Pixels:
    """A network that calls bright pixels cell, in every orientation."""
    return tiles * 4


def leftward(tiles: Pixels) -> Pixels:
    """A network that finds cells in the left half of every tile."""
    logits = np.full_like(tiles, -20)
    logits[..., : TILE // 2] = 20
    return logits


def page() -> Pixels:
    return np.random.default_rng(0).normal(size=(TILE, TILE)).astype(np.float32)


def test_views_are_put_back_upright_before_they_are_compared() -> None:
    expected = 1 / (1 + np.exp(-4 * page()))
    for probability in probability_range(page(), [bright]):
        np.testing.assert_allclose(probability, expected, atol=1e-5)


def test_pixels_that_depend_on_the_orientation_are_disputed() -> None:
    lowest, highest = probability_range(page(), [leftward])
    np.testing.assert_allclose(lowest, 0, atol=1e-5)
    np.testing.assert_allclose(highest, 1, atol=1e-5)


def test_every_teacher_can_widen_the_range() -> None:
    lowest, highest = probability_range(page(), [bright, leftward])
    np.testing.assert_allclose((lowest.max(), highest.min()), (0, 1), atol=1e-5)


def test_agreement_is_cell_or_ground_and_dispute_is_unknown() -> None:
    smooth = np.zeros((20, 20), np.float32)
    outcomes = {(0.9, 0.95): 255, (0.55, 0.9): UNKNOWN_GREY, (0.1, 0.4): UNKNOWN_GREY, (0.1, 0.2): 0}
    for (lowest, highest), grey in outcomes.items():
        low, high = (np.full(smooth.shape, value, np.float32) for value in (lowest, highest))
        assert np.array_equal(label(smooth, low, high), np.full(smooth.shape, grey))


def test_texture_that_the_teachers_pass_over_is_ground_only_beyond_doubt() -> None:
    textured = page()
    nothing = np.zeros_like(textured)
    assert np.all(label(textured, nothing, np.full_like(textured, 0.2)) == UNKNOWN_GREY)
    assert np.all(label(textured, nothing, np.full_like(textured, 0.01)) == 0)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with two images of another height than width."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in (3, 4):
        Image.fromarray(phase_contrast_field(seed, 240, 300).pixels).save(folder / f"field{seed}.tif")
    return folder


def test_images_get_labels_from_checkpoints_and_onnx_files_together(
    network: SwinUNet, weights: Path, pictures: Path, tmp_path: Path
) -> None:
    checkpoint, onnx, out = (
        tmp_path / "run.safetensors",
        weights / "native" / "swin_unet.onnx",
        tmp_path / "labels",
    )
    save(network, checkpoint)
    given = [str(checkpoint), str(onnx), "--images", str(pictures), "--out", str(out), "--every", "2"]
    assert main(given) == 0
    (path,) = out.iterdir()
    drawn = images.read_page(path).pixels
    assert (path.name, drawn.shape, drawn.dtype) == ("field3.png", (240, 300), np.dtype(np.uint8))
    assert set(np.unique(drawn)) <= {0, UNKNOWN_GREY, 255}


def test_a_label_that_is_there_stays(weights: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    out.mkdir()
    for seed in (3, 4):
        (out / f"field{seed}.png").write_bytes(b"drawn before")
    onnx = weights / "native" / "swin_unet.onnx"
    assert main([str(onnx), "--images", str(pictures), "--out", str(out)]) == 0
    assert [path.read_bytes() for path in out.iterdir()] == [b"drawn before"] * 2


@pytest.mark.parametrize("name", ["broken.onnx", "broken.safetensors"])
def test_a_file_that_is_no_network_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not a network")
    with pytest.raises(ValueError, match=rf"{name} does not hold (a network|weights)"):
        teacher(tmp_path / name)


def test_a_folder_without_images_is_refused(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx = weights / "native" / "swin_unet.onnx"
    assert main([str(onnx), "--images", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith("cannot label: ")
