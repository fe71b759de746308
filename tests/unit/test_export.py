"""The exported network predicts what torch predicts, and its manifest describes it."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from exported import small_network
from numpy.typing import NDArray
from safetensors.torch import save_file

from cytomask.model import preprocess
from cytomask.model.export import check_licence, load_checkpoint, main, mode_of, read_lineage
from cytomask.model.predictor import MODES, WEIGHTS, Ancestor, Mode, Predictor, tile_side
from cytomask.model.swin_unet import SwinUNet, SwinUNetConfig, count_parameters
from cytomask.samples.fields import phase_contrast_field

TOLERANCE = 1e-3  # of a probability


SIDE = 288  # of the tiles in `native` mode, in pixels


def tiles(count: int) -> preprocess.Pixels:
    return np.random.default_rng(count).normal(size=(count, 1, SIDE, SIDE)).astype(np.float32)


def probability(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def by_torch(network: SwinUNet, images: preprocess.Pixels) -> NDArray[np.float64]:
    with torch.inference_mode():
        return probability(network(torch.tensor(images)).numpy())


def by_onnx(weights: Path, images: preprocess.Pixels) -> NDArray[np.float64]:
    session = onnxruntime.InferenceSession(weights / "swin_unet.onnx")
    logits = [session.run(["logits"], {"image": image[None]})[0] for image in images]
    return probability(np.concatenate(logits))


def test_a_tile_gets_the_probabilities_of_torch(network: SwinUNet, weights: Path) -> None:
    expected = by_torch(network, tiles(3))
    assert expected.std() > 0.05
    np.testing.assert_allclose(by_onnx(weights / "native", tiles(3)), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("mode", MODES)
def test_the_shipped_weights_are_those_of_the_shipped_checkpoint(mode: Mode) -> None:
    side = tile_side(mode)
    page = preprocess.normalise(phase_contrast_field(0, side, 2 * side).pixels)
    images = np.stack([page[None, :, :side], page[None, :, side:]])
    expected = by_torch(load_checkpoint(WEIGHTS / mode / "swin_unet.safetensors"), images)
    np.testing.assert_allclose(by_onnx(WEIGHTS / mode, images), expected, rtol=0, atol=TOLERANCE)


def test_the_manifest_says_everything_of_the_network(weights: Path) -> None:
    manifest = json.loads((weights / "resize" / "manifest.json").read_text())
    assert manifest == {
        "name": "small-1",
        "mode": "resize",
        "file": "swin_unet.onnx",
        "sha256": hashlib.sha256((weights / "resize" / "swin_unet.onnx").read_bytes()).hexdigest(),
        "parameters": count_parameters(small_network(7)),
        "architecture": {
            "width": 16,
            "depths": [2],
            "bottleneck_depth": 2,
            "head_width": 16,
            "mlp_ratio": 2,
            "half_width": 4,
            "quarter_width": 8,
            "half_depth": 2,
            "window": 7,
        },
        "normalisation": "page-robust",
        "tile": 224,
        "overlap": 28,
        "threshold": 0.4,
        "training": {"steps": 2, "mode": "resize"},
        "training_data": ["noise", "dust"],
        "licence": "CC0",
        "scores": {"noise": {"iou": 0.5, "images": 1}},
        "lineage": [],
        "known_pages": [],
        "learned_pages": [],
    }


def test_a_folder_of_weights_holds_network_and_manifest_alone(weights: Path) -> None:
    for mode in MODES:
        assert sorted(path.name for path in (weights / mode).iterdir()) == ["manifest.json", "swin_unet.onnx"]


@pytest.mark.parametrize("trace", [str(Path.cwd()), str(Path.home()), "site-packages", ".py", "tests"])
def test_no_path_of_the_exporting_machine_gets_into_the_file(weights: Path, trace: str) -> None:
    assert trace.encode() not in (weights / "native" / "swin_unet.onnx").read_bytes()


@pytest.mark.parametrize("mode", MODES)
def test_the_onnx_file_takes_one_tile_of_its_mode(weights: Path, mode: Mode) -> None:
    graph = onnx.load(weights / mode / "swin_unet.onnx").graph
    sides = [
        [side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    ]
    assert [value.name for value in (*graph.input, *graph.output)] == ["image", "logits"]
    assert sides == [[1, 1, tile_side(mode), tile_side(mode)]] * 2


def test_the_predictor_serves_what_was_exported(network: SwinUNet, weights: Path) -> None:
    page = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), np.uint8)
    expected = by_torch(network, preprocess.normalise(page)[None, None])[0, 0]
    prediction = Predictor(weights).predict(page)
    np.testing.assert_allclose(prediction.probability, expected, rtol=0, atol=TOLERANCE)
    clear = np.abs(expected - 0.4) > TOLERANCE
    assert np.array_equal(prediction.mask[clear], expected[clear] >= 0.4)


def test_a_checkpoint_gives_the_network_it_was_saved_from(network: SwinUNet, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_file(network.state_dict(), path, metadata={"config": json.dumps(network.config.as_dict())})
    loaded = load_checkpoint(path)
    assert loaded.config == network.config == SwinUNetConfig(16, (2,), half_width=4, quarter_width=8)
    assert not loaded.training
    assert np.array_equal(by_torch(loaded, tiles(1)), by_torch(network, tiles(1)))


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        (None, "TypeError"),
        ({}, "(KeyError|TypeError)"),
        ({"depths": [2], "widths": [8]}, "ValidationError"),
        ({"depths": [1]}, "Error"),
    ],
)
def test_weights_of_another_network_are_refused(
    network: SwinUNet, tmp_path: Path, sizes: dict[str, list[int]] | None, reason: str
) -> None:
    path = tmp_path / "other.safetensors"
    metadata = None if sizes is None else {"config": json.dumps(sizes)} if sizes else {}
    save_file(network.state_dict(), path, metadata=metadata)
    with pytest.raises(
        ValueError, match=rf"other\.safetensors is not a checkpoint of a Swin-UNet \(.*{reason}"
    ):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint, but longer than a header"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.safetensors is not a checkpoint of a Swin-UNet"):
        load_checkpoint(path)


def test_an_export_says_where_to(capsys: pytest.CaptureFixture[str]) -> None:
    """Only a promotion, which compares scores, replaces the shipped weights; an export does not."""
    given = "x.safetensors --name x --config x.json --source x --licence x --scores x.json"
    with pytest.raises(SystemExit):
        main(given.split())
    assert "--out" in capsys.readouterr().err


def test_the_mode_is_that_of_the_run_and_native_by_default() -> None:
    assert [mode_of(run) for run in ({}, {"mode": "native"}, {"mode": "resize"})] == [
        "native",
        "native",
        "resize",
    ]
    with pytest.raises(ValueError, match="invalid mode tiles; use native or resize"):
        mode_of({"mode": "tiles"})


NC = Ancestor("swin-unet-0.6", "0" * 64, ["LIVECell"], "CC BY-NC 4.0: name LIVECell, not for commercial use")


@pytest.mark.parametrize("licence", ["MIT", "CC BY 4.0", "none stated", ""])
def test_a_licence_that_the_start_weights_do_not_allow_is_refused(licence: str) -> None:
    older = Ancestor("older", "1" * 64, [], "CC BY-NC 4.0")
    message = r"mine cannot have the licence .* builds on swin-unet-0\.6, whose licence is non-commercial"
    with pytest.raises(ValueError, match=message):
        check_licence("mine", licence, [older, NC])


@pytest.mark.parametrize("licence", ["CC BY-NC 4.0", "CC-BY-NC-SA", "non-commercial use", "Noncommercial"])
def test_a_licence_that_keeps_the_terms_is_accepted(licence: str) -> None:
    check_licence("mine", licence, [Ancestor("older", "1" * 64, [], "MIT"), NC])


def test_every_term_is_kept() -> None:
    alike = Ancestor("alike", "2" * 64, [], "CC BY-SA 4.0")
    with pytest.raises(ValueError, match="share-alike"):
        check_licence("mine", "CC BY-NC 4.0", [NC, alike])
    check_licence("mine", "CC BY-NC-SA 4.0", [NC, alike])


def test_weights_that_do_not_say_what_they_began_from_are_not_exported(
    network: SwinUNet, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_file(network.state_dict(), path, metadata={"config": json.dumps(network.config.as_dict())})
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors does not say which weights it began from"):
        read_lineage(path)
