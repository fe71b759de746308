"""A candidate replaces the served weights completely or not at all, and only if it scores no lower."""

import json
import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from exported import Exporter
from PIL import Image

from cytomask.model.predictor import (
    MODES,
    Manifest,
    Predictor,
    WeightsError,
    page_hash,
    read_manifest,
    tile_side,
)
from cytomask.model.swin_unet import STRIDE, SwinUNet, SwinUNetConfig
from cytomask.training.checkpoints import save
from cytomask.training.promote import (
    Candidate,
    LowerScore,
    fill_card,
    flattered,
    install,
    learned_pages,
    main,
    promote,
)

FILES = ["MODEL_CARD.md", "native/manifest.json", "native/swin_unet.onnx", "native/swin_unet.safetensors"]
TRAINED = {"train": {"made/train": 1.0}}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make checkpoints of networks for each mode: `all` calls every pixel cell, `none` no pixel."""
    folder = tmp_path_factory.mktemp("checkpoints")
    small = SwinUNetConfig(width=16, depths=(1,), bottleneck_depth=1, half_width=4, quarter_width=8)
    for (name, bias), mode in product({"all": 5.0, "none": -5.0}.items(), MODES):
        network = SwinUNet(msgspec.structs.replace(small, window=tile_side(mode) // STRIDE))
        with torch.no_grad():
            network.head.logit.weight.zero_()
            torch.nn.init.constant_(network.head.logit.bias, bias)  # type: ignore[arg-type]
        save(network, folder / f"{name}_{mode}.safetensors")
    return folder


@pytest.fixture(autouse=True)
def exported_once(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the two networks' existing ONNX files: an export takes seconds."""
    monkeypatch.setattr("cytomask.model.export.export_onnx", exporter)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise: `made/val` is 0.75 cell and 0.25 cell, `made/train` all cell, `empty/val` without any."""
    folder = tmp_path_factory.mktemp("data")
    lines = ["source,split,image,mask,cell"]
    rows = {"made/val": (30, 10), "made/train": (36,), "empty/val": (0,)}
    for row, tops in rows.items():
        for top in tops:
            truth = np.zeros((40, 40), np.uint8)
            truth[:top] = 255
            name = f"{row.replace('/', '_')}_{top}"
            Image.fromarray(np.random.default_rng(top).integers(0, 256, (40, 40), np.uint8)).save(
                folder / f"{name}.png"
            )
            Image.fromarray(truth).save(folder / f"{name}_mask.png")
            lines.append(f"{row.replace('/', ',')},{name}.png,{name}_mask.png,L{top}")
    (folder / "index.csv").write_text("\n".join(lines))
    return folder


def candidate(checkpoints: Path, name: str, **fields: Any) -> Candidate:
    given = {"training": TRAINED, "training_data": ["made, 1 image: CC0"], "licence": "CC0"} | fields
    mode = given["training"].get("mode", "native")
    return Candidate(checkpoints / f"{name}_{mode}.safetensors", f"{name}-1", **given)


@pytest.fixture
def serving(checkpoints: Path, data: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Make a folder that serves `none`, with prose in its card and a file that promotion must not touch."""
    weights = tmp_path / "model" / "weights"
    promote(candidate(checkpoints, getattr(request, "param", "none")), weights, data, ["made/val"])
    (weights / "README.md").write_text("mine")
    card = weights / "MODEL_CARD.md"
    card.write_text(f"# Card\n\nProse.\n\n{card.read_text()}\n## Licence\n\nMore prose.\n")
    return weights


def files_of(folder: Path) -> list[str]:
    """List every file in a folder."""
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def contents(folder: Path) -> dict[str, bytes]:
    """List every file and folder in a folder, to find leftovers of a promotion."""
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in paths}


@pytest.fixture
def untouched(serving: Path) -> Iterator[None]:
    """Check that the test changes nothing in or beside the served folder."""
    before = contents(serving.parent)
    yield
    assert contents(serving.parent) == before


def test_the_first_weights_replace_none(checkpoints: Path, data: Path, tmp_path: Path) -> None:
    weights = tmp_path / "model" / "weights"
    outcome = promote(candidate(checkpoints, "all", threshold=0.4), weights, data, ["made/val"])
    assert outcome == "all-1 is promoted: its native mean IoU on 2 images is 0.5000"
    assert sorted(files_of(weights)) == FILES
    assert [path.name for path in weights.parent.iterdir()] == ["weights"]
    manifest = read_manifest(weights / "native", "native")
    assert (manifest.name, manifest.threshold, manifest.training) == ("all-1", 0.4, TRAINED)
    assert (manifest.training_data, manifest.licence) == (["made, 1 image: CC0"], "CC0")
    with Image.open(data / "made_train_36.png") as learned:
        assert manifest.learned_pages == [page_hash(np.asarray(learned))]
    assert (weights / FILES[3]).read_bytes() == (checkpoints / "all_native.safetensors").read_bytes()


def test_generated_pages_pages_left_out_and_sources_elsewhere_have_no_hash(data: Path) -> None:
    sources = {"made/val": 1.0, "empty:1-3": 1.0, "elsewhere/train": 1.0}
    found = learned_pages({"train": sources, "hold_out": ["made_val_30"]}, [], data)
    with Image.open(data / "made_val_10.png") as learned:
        assert found == [page_hash(np.asarray(learned))]


def test_a_higher_score_replaces_all_of_a_model(checkpoints: Path, data: Path, serving: Path) -> None:
    outcome = promote(candidate(checkpoints, "all"), serving, data, ["made/val"])
    assert outcome == (
        "all-1 is promoted: its native mean IoU on 2 images is 0.5000, that of none-1 on the same is 0.0000"
    )
    assert sorted(files_of(serving)) == sorted([*FILES, "README.md"])
    assert [path.name for path in serving.parent.iterdir()] == ["weights"]
    assert (serving / FILES[3]).read_bytes() == (checkpoints / "all_native.safetensors").read_bytes()
    predictor = Predictor(serving, modes=["native"])
    assert predictor.manifests["native"].name == "all-1"
    assert predictor.predict(np.arange(64).reshape(8, 8)).mask.all()


def test_manifest_and_card_carry_the_scores(checkpoints: Path, data: Path, serving: Path) -> None:
    promote(candidate(checkpoints, "all"), serving, data, ["made/val"])
    manifest = read_manifest(serving / "native", "native")
    assert list(manifest.scores) == ["made/val"]
    scores = manifest.scores["made/val"]
    assert (scores["images"], scores["mean_iou"]) == (2, {"native": 0.5})
    assert scores["iou"] == {"made_val_30.png": {"native": 0.75}, "made_val_10.png": {"native": 0.25}}
    card = (serving / "MODEL_CARD.md").read_text()
    assert card.startswith("# Card\n\nProse.\n\n## Scores\n\n<!-- scores -->\n`native` by all-1 (sha256 ")
    assert card.endswith("|\n<!-- /scores -->\n\n## Licence\n\nMore prose.\n")
    assert "| made/val | all | 2 | native | 0.500 / 0.500 |" in card
    assert "| made/val | L30 | 1 | native | 0.750 / 0.750 |" in card
    assert "none-1" not in card


@pytest.mark.parametrize("serving", ["all"], indirect=True)
@pytest.mark.usefixtures("untouched")
def test_a_lower_score_is_refused_with_both_numbers(checkpoints: Path, data: Path, serving: Path) -> None:
    with pytest.raises(LowerScore) as raised:
        promote(candidate(checkpoints, "none"), serving, data, ["made/val"])
    assert str(raised.value) == (
        "none-1 is not promoted: its native mean IoU on 2 images is 0.0000, "
        "that of all-1 on the same is 0.5000; nothing was changed"
    )


def test_an_equal_score_is_enough(checkpoints: Path, data: Path, serving: Path) -> None:
    outcome = promote(candidate(checkpoints, "none", threshold=0.6), serving, data, ["made/val"])
    assert outcome.startswith("none-1 is promoted: its native mean IoU on 2 images is 0.0000, that of none-1")
    assert read_manifest(serving / "native", "native").threshold == 0.6


@pytest.mark.usefixtures("untouched")
def test_cells_on_an_empty_page_are_refused(checkpoints: Path, data: Path, serving: Path) -> None:
    with pytest.raises(LowerScore, match=r"on 1 images is 0\.0000, that of none-1 on the same is 1\.0000"):
        promote(candidate(checkpoints, "all"), serving, data, ["empty/val"])


def test_the_mean_is_over_the_images_of_all_sources(checkpoints: Path, data: Path, serving: Path) -> None:
    # 0.75, 0.25 and 0 against 0, 0 and 1.
    outcome = promote(candidate(checkpoints, "all"), serving, data, ["made/val", "empty/val"])
    assert outcome.endswith("on 3 images is 0.3333, that of none-1 on the same is 0.3333")


def test_scores_that_are_only_reported_do_not_decide(checkpoints: Path, data: Path, serving: Path) -> None:
    promote(candidate(checkpoints, "all"), serving, data, ["made/val"], ["empty/val", "made/val"])
    scores = read_manifest(serving / "native", "native").scores
    assert {source: score["mean_iou"]["native"] for source, score in scores.items()} == {
        "made/val": 0.5,
        "empty/val": 0.0,
    }


def test_weights_trained_on_the_same_images_tell_data_and_licence(
    checkpoints: Path, data: Path, serving: Path
) -> None:
    again = candidate(
        checkpoints, "all", training={"train": ["made/train"], "steps": 9}, training_data=[], licence=""
    )
    promote(again, serving, data, ["made/val"])
    manifest = read_manifest(serving / "native", "native")
    assert (manifest.training_data, manifest.licence) == (["made, 1 image: CC0"], "CC0")
    assert manifest.training == {"train": ["made/train"], "steps": 9}


@pytest.mark.parametrize("given", [{"training_data": []}, {"licence": ""}])
@pytest.mark.parametrize(
    "other", [{"train": {"made/train": 1, "else/train": 1}}, TRAINED | {"hold_out": ["x"]}]
)
@pytest.mark.usefixtures("untouched")
def test_weights_trained_on_other_images_do_not(
    checkpoints: Path, data: Path, serving: Path, given: dict[str, Any], other: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"licence are unknown; give --trained-on and --licence"):
        promote(candidate(checkpoints, "all", training=other, **given), serving, data, ["made/val"])


@pytest.mark.usefixtures("untouched")
def test_damaged_weights_are_not_replaced_unseen(
    checkpoints: Path, data: Path, serving: Path, tmp_path: Path
) -> None:
    damaged = shutil.copytree(serving, tmp_path / "damaged")
    (damaged / "native" / "swin_unet.onnx").write_bytes(b"")
    with pytest.raises(WeightsError, match="sha256"):
        promote(candidate(checkpoints, "all"), damaged, data, ["made/val"])
    assert (damaged / "native" / "swin_unet.onnx").read_bytes() == b""


@pytest.mark.usefixtures("untouched")
def test_a_full_disk_leaves_the_old_weights(
    checkpoints: Path, data: Path, serving: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Manifest, folder: Path) -> None:
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setattr("cytomask.training.promote.write_manifest", full)
    with pytest.raises(OSError, match="No space left"):
        promote(candidate(checkpoints, "all"), serving, data, ["made/val"])


@pytest.mark.parametrize("reached", ["a", "in/b", "in/manifest.json"])
def test_an_interrupted_replacement_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reached: str
) -> None:
    staging, weights = tmp_path / "staging", tmp_path / "weights"
    for folder, names in (
        (staging, ["in/manifest.json", "a", "in/b"]),
        (weights, ["in/manifest.json", "in/b", "c"]),
    ):
        (folder / "in").mkdir(parents=True)
        for name in names:
            (folder / name).write_text(f"{name} of {folder.name}")
    before = contents(weights)
    replace = Path.replace

    def interrupted(source: Path, target: Path) -> Path:
        moved = replace(source, target)
        if source == staging / reached:
            raise KeyboardInterrupt
        return moved

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        install(staging, weights)
    assert contents(weights) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["staging", "weights"]


def test_the_manifest_is_replaced_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staging, order = tmp_path / "staging", []
    (staging / "native").mkdir(parents=True)
    for name in FILES:
        (staging / name).write_text(name)
    replace = Path.replace

    def noted(source: Path, target: Path) -> Path:
        order.append(source.relative_to(staging).as_posix())
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", noted)
    install(staging, tmp_path / "weights")
    assert sorted(order) == FILES
    assert order[-1] == "native/manifest.json"


@pytest.mark.slow
def test_each_mode_has_weights_of_its_own_and_both_are_on_the_card(
    checkpoints: Path, data: Path, serving: Path
) -> None:
    before = contents(serving / "native")
    squashed = candidate(checkpoints, "all", training=TRAINED | {"mode": "resize"})
    outcome = promote(squashed, serving, data, ["made/val"])
    assert outcome == "all-1 is promoted: its resize mean IoU on 2 images is 0.5000"
    assert contents(serving / "native") == before
    assert read_manifest(serving / "resize", "resize").scores["made/val"]["mean_iou"] == {"resize": 0.5}
    card = (serving / "MODEL_CARD.md").read_text()
    assert card.index("`native` by none-1") < card.index("`resize` by all-1")
    assert "| made/val | all | 2 | native | 0.000 / 0.000 |" in card
    assert "| made/val | all | 2 | resize | 0.500 / 0.500 |" in card
    with pytest.raises(LowerScore, match=r"its resize mean IoU on 2 images is 0\.0000, that of all-1"):
        worse = candidate(checkpoints, "none", training=TRAINED | {"mode": "resize"})
        promote(worse, serving, data, ["made/val"])


@pytest.mark.parametrize(
    ("card", "filled"),
    [
        ("", "## Scores\n\n<!-- scores -->\nT\n<!-- /scores -->\n"),
        ("# Card\n\nProse.\n", "# Card\n\nProse.\n\n## Scores\n\n<!-- scores -->\nT\n<!-- /scores -->\n"),
        ("a <!-- scores -->\nold\n<!-- /scores --> z\n", "a <!-- scores -->\nT\n<!-- /scores --> z\n"),
        ("<!-- scores --><!-- /scores -->", "<!-- scores -->\nT\n<!-- /scores -->"),
    ],
)
def test_the_cards_scores_are_filled_in_and_its_prose_is_kept(card: str, filled: str) -> None:
    assert fill_card(card, "T") == filled
    assert fill_card(filled, "T") == filled


@pytest.mark.parametrize(
    "card", ["<!-- scores -->", "<!-- /scores -->", "<!-- /scores --> old <!-- scores -->"]
)
def test_a_card_with_one_marker_is_not_guessed_at(card: str) -> None:
    with pytest.raises(
        ValueError, match=r"MODEL_CARD\.md needs <!-- scores --> and, below it, <!-- /scores -->"
    ):
        fill_card(card, "T")


@pytest.mark.parametrize(
    ("training", "seen"),
    [
        ({"train": {"made/val": 2.0}}, 2),
        ({"train": ["made/val"]}, 2),
        ({"train": ["made/val"], "hold_out": ["made_val_10"]}, 1),
        ({"train": ["made/val"], "hold_out": ["made_val_10", "made_val_30"]}, 0),
        ({"train": ["made/train"]}, 0),
        ({}, 0),
    ],
)
def test_images_that_a_model_was_trained_on_are_reported(
    data: Path, training: dict[str, Any], seen: int
) -> None:
    sentence = f"small was trained on {seen} of the 2 images of made/val, so its score there is too high"
    assert flattered("small", training, data, ["empty/val", "made/val"]) == [sentence] * (seen > 0)


def run(checkpoints: Path, name: str, data: Path, weights: Path, *more: str) -> None:
    config = checkpoints / "config.json"
    config.write_text(json.dumps(TRAINED))
    main(
        [
            *(str(checkpoints / f"{name}_native.safetensors"), "made/val", "made/train"),
            *("--data", str(data), "--name", f"{name}-2", "--weights", str(weights), *more),
        ]
    )


def test_the_command_promotes_and_warns_of_what_was_trained_on(
    checkpoints: Path, data: Path, serving: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(checkpoints, "all", data, serving, "--report", "empty/val", "--threshold", "0.3")
    said = capsys.readouterr()
    assert said.out == (
        "all-2 is promoted: its native mean IoU on 3 images is 0.6333, that of none-1 on the same is 0.0000\n"
    )
    assert said.err.splitlines() == [
        f"warning: {name} was trained on 1 of the 1 images of made/train, so its score there is too high"
        for name in ("all-2", "none-1")
    ]
    manifest = read_manifest(serving / "native", "native")
    assert (manifest.name, manifest.threshold) == ("all-2", 0.3)
    assert list(manifest.scores) == ["made/val", "made/train", "empty/val"]


@pytest.mark.parametrize("serving", ["all"], indirect=True)
@pytest.mark.usefixtures("untouched")
def test_the_command_reports_the_refusal(checkpoints: Path, data: Path, serving: Path) -> None:
    with pytest.raises(SystemExit) as raised:
        run(checkpoints, "none", data, serving)
    # SystemExit with a text prints it and exits with 1.
    assert raised.value.code == (
        "promote: none-2 is not promoted: its native mean IoU on 3 images is 0.0000, "
        "that of all-1 on the same is 0.6333; nothing was changed"
    )


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("absent", [], "absent_native.safetensors"),
        ("all", ["--report", "made/test"], "made/test in .* has no images"),
        ("all", ["--config", "nowhere.json"], "nowhere.json"),
    ],
)
@pytest.mark.usefixtures("untouched")
def test_the_command_names_what_is_missing(
    checkpoints: Path, data: Path, serving: Path, name: str, more: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match=rf"promote: .*{message}"):
        run(checkpoints, name, data, serving, *more)
