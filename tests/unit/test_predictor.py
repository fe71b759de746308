"""From page to mask: shapes, thresholds, seams, and weights that must not be served."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exported import Exporter, small_network
from numpy.typing import NDArray

from cytomask.model.export import export
from cytomask.model.predictor import (
    MODES,
    Mode,
    Predictor,
    WeightsError,
    logit,
    logits_of_page,
    open_network,
    page_hash,
)
from cytomask.model.preprocess import SQUARE, TILE, Pixels
from cytomask.samples.fields import phase_contrast_field

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def predictor(weights: Path) -> Predictor:
    """The small network with random weights."""
    return Predictor(weights)


@pytest.fixture
def copied(weights: Path, tmp_path: Path) -> Path:
    """A folder of weights to damage."""
    return shutil.copytree(weights, tmp_path / "weights")


def change(folder: Path, **fields: object) -> None:
    """Change fields of the manifest."""
    path = folder / "native" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (3, 500), (223, 225), (520, 704)])
def test_the_mask_has_the_size_of_the_page(predictor: Predictor, mode: Mode, shape: tuple[int, int]) -> None:
    prediction = predictor.predict(noise(*shape), mode)
    assert prediction.mask.shape == prediction.logits.shape == prediction.probability.shape == shape
    assert prediction.mask.dtype == np.bool_
    assert prediction.logits.dtype == prediction.probability.dtype == np.float32
    assert not np.isnan(prediction.logits).any()


@pytest.mark.parametrize("mode", MODES)
def test_a_pixel_is_cell_where_its_probability_reaches_the_threshold(
    predictor: Predictor, mode: Mode
) -> None:
    page = noise(250, 230)
    middle = float(np.median(predictor.predict(page, mode).probability))
    for threshold in (middle - 0.01, middle, middle + 0.01):
        prediction = predictor.predict(page, mode, threshold)
        clear = np.abs(prediction.probability - threshold) > 1e-6
        assert 0 < prediction.mask.mean() < 1
        assert np.array_equal(prediction.mask[clear], prediction.probability[clear] >= threshold)


def test_a_probability_equal_to_the_threshold_is_cell(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cytomask.model.predictor.logits_of_page", lambda page, *_: np.zeros_like(page))
    assert predictor.predict(noise(9, 9), threshold=0.5).mask.all()
    assert not predictor.predict(noise(9, 9), threshold=0.500001).mask.any()


def test_without_a_threshold_it_is_the_models_own(predictor: Predictor) -> None:
    page = noise(224, 224)
    assert np.array_equal(predictor.predict(page).mask, predictor.predict(page, threshold=0.4).mask)
    assert not np.array_equal(predictor.predict(page).mask, predictor.predict(page, threshold=0.5).mask)


def test_a_threshold_of_0_takes_every_pixel_and_1_takes_none(predictor: Predictor) -> None:
    page = noise(100, 100)
    assert predictor.predict(page, threshold=0).mask.all()
    assert not predictor.predict(page, threshold=1).mask.any()


def test_a_higher_threshold_only_takes_pixels_away(predictor: Predictor) -> None:
    page = noise(224, 224)
    masks = [predictor.predict(page, threshold=threshold / 20).mask for threshold in range(21)]
    assert all(np.all(lower >= higher) for lower, higher in pairwise(masks))
    assert len({int(mask.sum()) for mask in masks}) > 5


@pytest.mark.parametrize(
    ("probability", "expected"), [(0.5, 0), (0.25, -np.log(3)), (0, -np.inf), (1, np.inf)]
)
def test_logits_of_thresholds(probability: float, expected: float) -> None:
    assert logit(probability) == pytest.approx(expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [0, 255])
def test_a_constant_page_has_no_cells(predictor: Predictor, mode: Mode, value: int) -> None:
    prediction = predictor.predict(np.full((30, 300), value, np.uint8), mode)
    assert np.array_equal(prediction.mask, np.zeros((30, 300), np.bool_))
    assert np.array_equal(prediction.probability, np.zeros((30, 300), np.float32))


@pytest.mark.parametrize("mode", MODES)
def test_8_12_and_16_bit_copies_get_the_same_mask(shipped: Predictor, mode: Mode) -> None:
    page = (phase_contrast_field(0, 240, 320).pixels >> 8).astype(np.uint8)
    mask = shipped.predict(page, mode).mask
    assert 0 < mask.mean() < 1
    for gain in (16, 256, 257):
        assert np.array_equal(shipped.predict(page.astype(np.uint16) * np.uint16(gain), mode).mask, mask)
    assert np.array_equal(shipped.predict(page.astype(np.float32) / 2, mode).mask, mask)


def test_the_two_modes_look_at_different_scales(shipped: Predictor) -> None:
    page = phase_contrast_field(0, 300, 400).pixels
    native, resized = (shipped.predict(page, mode) for mode in MODES)
    assert native.plan is not None
    assert (native.plan.height, native.plan.width, native.plan.count) == (300, 400, 4)
    assert resized.plan is None
    assert not np.array_equal(native.mask, resized.mask)


def test_resize_mode_shows_the_network_the_whole_page_once() -> None:
    seen = []

    def infer(tiles: Pixels) -> Pixels:
        seen.append(tiles)
        return tiles

    ramp = np.linspace(-1, 1, 500, dtype=np.float32)[None].repeat(300, axis=0)
    logits = logits_of_page(ramp, "resize", infer)
    assert [tiles.shape for tiles in seen] == [(1, 1, SQUARE, SQUARE)]
    np.testing.assert_allclose(logits, ramp, atol=0.01)


def test_threads_share_a_predictor(predictor: Predictor) -> None:
    pages = [phase_contrast_field(seed, 230, 240).pixels for seed in range(4)]
    alone = [predictor.predict(page).logits for page in pages]
    with ThreadPoolExecutor(4) as pool:
        shared = [prediction.logits for prediction in pool.map(predictor.predict, pages)]
    for one, other in zip(alone, shared, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_neighbouring_tiles_keep_their_places(weights: Path, threads: int) -> None:
    infer = open_network(weights / "native" / "swin_unet.onnx", "native", threads)
    tiles = np.random.default_rng(0).normal(size=(5, 1, TILE, TILE)).astype(np.float32)
    one_by_one = np.concatenate([infer(tile[None]) for tile in tiles])
    np.testing.assert_allclose(infer(tiles), one_by_one, atol=1e-4)


def test_errors_at_the_borders_of_tiles_do_not_become_lines() -> None:
    def infer(tiles: Pixels) -> Pixels:
        """A network that is wrong by up to 1 at a tile's border, where it lacks context."""
        inwards = np.minimum(np.arange(TILE), np.arange(TILE)[::-1])
        wrong = np.exp(-inwards / 10).astype(np.float32)
        return tiles + np.maximum(wrong[:, None], wrong[None])

    height, width = 520, 704
    smooth = np.zeros((height, width), np.float32)
    logits = logits_of_page(smooth, "native", infer)
    inside = logits[20:-20, 20:-20]  # the page's own border is where no other tile can help
    assert max(np.abs(np.diff(inside, axis=axis)).max() for axis in (0, 1)) < 0.03


def test_logits_do_not_jump_where_tiles_begin_and_end(shipped: Predictor) -> None:
    prediction = shipped.predict(phase_contrast_field(0, 392, 560).pixels)
    plan = prediction.plan
    assert plan is not None
    for axis, starts in ((0, plan.rows), (1, plan.columns)):
        # Median over the line: a seam is a step all along it, the edge of a cell is not.
        steps = np.median(np.abs(np.diff(prediction.logits, axis=axis)), axis=1 - axis)
        borders = [start - 1 for start in starts[1:]] + [start + TILE - 1 for start in starts[:-1]]
        assert steps[borders].max() < 1.5 * np.quantile(steps, 0.9)


def test_moving_the_page_moves_the_mask(shipped: Predictor) -> None:
    pixels = phase_contrast_field(0, 440, 640).pixels
    first, second = (shipped.predict(pixels[at : at + 400, at : at + 600]).mask for at in (0, 37))
    first, second = first[37:, 37:], second[:-37, :-37]
    assert first.any()
    assert np.mean(first == second) > 0.97


def test_without_a_manifest_nothing_is_served(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"manifest\.json: No such file.*copy the model's whole"):
        Predictor(tmp_path)


def test_a_network_for_the_other_mode_is_not_served(copied: Path) -> None:
    change(copied, mode="resize")
    with pytest.raises(
        WeightsError, match="describes a network for resize, not for native; use it for resize"
    ):
        Predictor(copied)


def test_the_networks_that_a_folder_has_are_loaded(copied: Path) -> None:
    alone = Predictor(str(copied / "native"))  # as fine-tuned weights lie
    alone.wait()
    shutil.rmtree(copied / "native")
    below = Predictor(copied)
    assert [list(each.manifests) for each in (alone, below)] == [["native"], ["resize"]]
    assert alone.predict(noise(9, 9)).mask.shape == (9, 9)
    with pytest.raises(ValueError, match="only the network for resize, not for native; load"):
        below.predict(noise(9, 9))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"modes": "native"}, "modes must be a list of 'native', 'resize' or both, not 'native'"),
        ({"modes": 5}, "modes must be a list of 'native', 'resize' or both, not 5"),
        ({"modes": [["native"]]}, r"modes must be a list .* not \[\['native'\]\]"),
        ({"weights": None}, "weights must be the folder of a model, not None"),
        ({"modes": []}, r"not \[\]"),
        ({"modes": ["fast"]}, r"not \['fast'\]"),
        ({"threads": -1}, "threads must be a positive number, or 0 for one per core, not -1"),
        ({"threads": "2"}, "not '2'"),
        ({"threads": True}, "not True"),
    ],
)
def test_options_that_no_predictor_has_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Predictor(**options)


@pytest.mark.parametrize(
    ("page", "told"),
    [
        (np.zeros((2, 9, 9), np.uint8), r"shape \(height, width\), not \(2, 9, 9\); pass one page at a time"),
        (np.zeros((9, 9, 3), np.uint8), r"not \(9, 9, 3\); choose one channel"),
        (np.zeros(9, np.uint8), r"not \(9,\); pass a whole page"),
        (np.zeros((0, 9), np.uint8), r"no pixels: its shape is \(0, 9\)"),
        (np.zeros((9, 9), bool), "integers or floats, not bool"),
        (np.zeros((9, 9), complex), "integers or floats, not complex128"),
        (np.full((9, 9), np.nan), "NaN or infinite values"),
        (np.diag([np.inf] * 9), "NaN or infinite values"),
        (np.diag([np.longdouble("1e4000")] * 9), "NaN or infinite values"),  # float64 cannot hold it
        (np.ma.masked_equal(np.eye(9), 1), "masked values"),
    ],
)
def test_a_page_that_cannot_be_segmented_is_refused(predictor: Predictor, page: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        predictor.predict(page)


@pytest.mark.parametrize("threshold", [2, -0.1, float("nan"), "0.5"])
def test_a_threshold_out_of_range_is_refused(predictor: Predictor, threshold: Any) -> None:
    with pytest.raises(ValueError, match="threshold must be a number between 0 and 1, not "):
        predictor.predict(noise(9, 9), threshold=threshold)


def test_numbers_of_numpy_are_numbers_of_threads(weights: Path) -> None:
    threads: Any = np.int64(1)
    assert Predictor(weights, threads=threads).predict(noise(9, 9)).mask.shape == (9, 9)


def test_a_list_of_rows_is_a_page(predictor: Predictor) -> None:
    page = noise(9, 9)
    rows: Any = page.astype(np.int64).tolist()
    assert np.array_equal(predictor.predict(rows).logits, predictor.predict(page).logits)


def test_a_name_instead_of_a_folder_is_refused_with_what_to_give() -> None:
    with pytest.raises(WeightsError, match=r"my-microscope/native/manifest\.json: .*; give a model's folder"):
        Predictor("my-microscope")


def test_a_mode_that_is_not_asked_for_is_not_loaded(copied: Path) -> None:
    shutil.rmtree(copied / "native")
    predictor = Predictor(copied, modes=["resize"])
    predictor.wait()
    assert list(predictor.manifests) == ["resize"]
    assert predictor.predict(noise(9, 9), "resize").mask.shape == (9, 9)


@pytest.mark.parametrize("mode", ["native", pytest.param("resize", marks=pytest.mark.slow)])
def test_each_mode_has_its_own_network(
    copied: Path, exporter: Exporter, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    unchanged = Predictor(copied)
    before = {each: unchanged.predict(noise(30, 30), each).logits for each in MODES}
    other = small_network(9 if mode == "native" else 7)
    with torch.no_grad():
        assert other.head.logit.bias is not None
        other.head.logit.bias += 1
    told: dict[str, Any] = {
        "training": {"mode": mode},
        "training_data": ["noise"],
        "licence": "CC0",
        "scores": {},
    }
    monkeypatch.setattr("cytomask.model.export.export_onnx", exporter)
    export(other, copied / mode, name="other", threshold=0.5, **told)
    changed = Predictor(copied)
    for each in MODES:
        after = changed.predict(noise(30, 30), each).logits
        np.testing.assert_allclose(after, before[each] + (each == mode), atol=1e-4)


def test_a_file_in_place_of_the_folder_is_not_served(tmp_path: Path) -> None:
    (tmp_path / "weights").touch()
    with pytest.raises(WeightsError, match=r"manifest\.json: Not a directory.*copy the model's whole"):
        Predictor(tmp_path / "weights")


def test_without_the_network_nothing_is_served(copied: Path) -> None:
    (copied / "native" / "swin_unet.onnx").unlink()
    predictor = Predictor(copied)
    for serve in (predictor.wait, lambda: predictor.predict(noise(9, 9))):
        with pytest.raises(WeightsError, match=r"swin_unet\.onnx: No such file.*copy the model's whole"):
            serve()


def test_a_network_of_another_sha256_is_not_served(copied: Path) -> None:
    network = copied / "native" / "swin_unet.onnx"
    network.write_bytes(network.read_bytes() + b"\0")
    with pytest.raises(
        WeightsError, match=r"swin_unet\.onnx has sha256 [0-9a-f]{64} .* copy the model's whole"
    ):
        Predictor(copied).wait()


@pytest.mark.parametrize(
    ("field", "value"), [("normalisation", "tile-percentile"), ("tile", 256), ("overlap", 0)]
)
def test_weights_made_for_other_pixels_are_not_served(copied: Path, field: str, value: object) -> None:
    change(copied, **{field: value})
    with pytest.raises(WeightsError, match=rf"from another version of cytomask: .*{value}.*, and this"):
        Predictor(copied)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"name": "half a manifest"}', b'{"name": "\xff"}', b"\xff\xfe"]
)
def test_a_broken_manifest_is_not_served(copied: Path, content: bytes) -> None:
    (copied / "native" / "manifest.json").write_bytes(content)
    with pytest.raises(
        WeightsError, match=r"manifest\.json is not a manifest: .*copy the model's whole folder"
    ):
        Predictor(copied)


def test_a_manifest_with_an_unknown_field_is_not_served(copied: Path) -> None:
    change(copied, normalization="page-zscore")
    with pytest.raises(WeightsError, match="normalization"):
        Predictor(copied)


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("cytomask.model.predictor", {"torch", "onnx", "scipy", "boto3", "PIL.ImageShow"}),
        ("cytomask.cli.segmentation", {"torch", "onnx", "scipy", "boto3", "botocore"}),
        ("cytomask.functions.segment.segmenter", {"torch", "onnx", "scipy"}),
    ],
)
def test_serving_imports_nothing_that_it_does_not_need(module: str, unwanted: set[str]) -> None:
    program = f"import json, sys, {module}; print(json.dumps(list(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout
    assert unwanted & set(json.loads(output)) == set()


def test_a_hash_tells_pixels_apart_and_ignores_byte_order() -> None:
    pixels = np.arange(12, dtype=np.uint16).reshape(3, 4)
    assert page_hash(pixels) == page_hash(pixels.astype(">u2")) == page_hash(pixels.copy("F"))
    assert page_hash(pixels) != page_hash(pixels + 1)
