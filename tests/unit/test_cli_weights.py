"""`cytomask segment --weights`: a folder, or a name."""

import json
import shutil
from pathlib import Path

import pytest
import tifffile

from cytomask.cli.main import main
from cytomask.cli.weights import find_weights, models_folder, require_one_mode
from cytomask.model.predictor import MODES, WEIGHTS, WeightsError, read_manifest
from cytomask.samples.fields import phase_contrast_field


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_folder_may_hold_both_modes_or_one_network(weights: Path) -> None:
    assert find_weights(str(weights), "native") == weights
    exported = shutil.copytree(weights / "resize", "exported")
    assert find_weights("exported", "resize") == Path(exported)


def test_the_name_of_shipped_weights_is_enough() -> None:
    name = read_manifest(WEIGHTS / "native", "native").name
    assert find_weights(name, "native") == WEIGHTS / "native"
    with pytest.raises(WeightsError, match=f"{name} is for --mode native, not for resize"):
        find_weights(name, "resize")


def test_an_unknown_model_is_refused_with_the_known_names() -> None:
    with pytest.raises(
        WeightsError, match=r"nowhere is neither a folder nor the name of a model on this computer \(swin"
    ):
        find_weights("nowhere", "native")
    Path("empty").mkdir()
    with pytest.raises(WeightsError, match="empty has no weights for the mode native"):
        find_weights("empty", "native")


def test_masks_are_made_with_the_weights_that_were_named(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tifffile.imwrite("a.tif", phase_contrast_field(0, 40, 50).pixels)
    shutil.copytree(weights / "native", "mine")
    assert main(["segment", "a.tif", "--weights", "mine"]) == 0
    assert Path("masks/a.tif.mask.png").exists()
    assert main(["segment", "a.tif", "--weights", "mine", "--mode", "resize", "--out", "other"]) == 2
    assert "describes a network for native, not for resize; use it for native" in capsys.readouterr().err
    assert not Path("other").exists()


def model(weights: Path, folder: Path, name: str) -> Path:
    """Put a model of another name into a folder."""
    shutil.copytree(weights / "native", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"name": name}))
    return folder


def test_a_fine_tuned_model_is_found_by_its_name(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CYTOMASK_MODELS", str(tmp_path / "models"))
    folder = model(weights, tmp_path / "models" / "anything", "mine-1")
    assert find_weights("mine-1", "native") == folder
    with pytest.raises(WeightsError, match="mine-1 is for --mode native, not for resize"):
        find_weights("mine-1", "resize")
    Path("mine-1").mkdir()  # such as the folder of its pairs
    assert find_weights("mine-1", "native") == folder
    model(weights, tmp_path / "models" / "twin", "mine-1")
    with pytest.raises(WeightsError, match=r"two models are called mine-1: .*anything and .*twin; give the"):
        find_weights("mine-1", "native")


def test_weights_of_two_modes_are_not_compared(weights: Path) -> None:
    native, resize = (read_manifest(WEIGHTS / mode, mode).name for mode in MODES)
    require_one_mode(native, str(weights))  # a folder with both
    require_one_mode(native, "nobody")  # refused when it is opened
    for one in (native, str(weights / "native")):
        with pytest.raises(
            WeightsError, match=f"{one} is for --mode native and {resize} for resize; compare"
        ):
            require_one_mode(one, resize)


@pytest.mark.parametrize("variable", ["CYTOMASK_MODELS", "XDG_DATA_HOME"])
def test_the_folder_of_models_is_the_users(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CYTOMASK_MODELS", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv(variable, str(tmp_path))
    assert models_folder() == (
        tmp_path if variable == "CYTOMASK_MODELS" else tmp_path / "cytomask" / "models"
    )


def test_models_lists_what_ships_and_what_was_made(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model(weights, tmp_path / "models" / "a", "mine-1")
    damaged = model(weights, tmp_path / "models" / "b", "mine-2")
    assert main(["models", "--dir", "models", "mine-1"]) == 0
    told = capsys.readouterr().out
    assert "licence     CC0" in told
    assert "data        noise" in told
    (damaged / "swin_unet.onnx").write_bytes(b"damaged")
    assert main(["models", "--dir", "models"]) == 1
    told, complained = capsys.readouterr()
    shipped = read_manifest(WEIGHTS / "native", "native")
    lines = {line.split()[0]: line for line in told.splitlines()}
    assert shipped.sha256[:12] in lines[shipped.name]
    assert "models/a" in lines["mine-1"]
    assert "mine-2" not in lines
    assert "models/b cannot be used" in complained
    assert "its manifest says" in complained


def test_models_name_the_models_that_they_began_from_and_no_stages_of_a_training(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model(weights, tmp_path / "models" / "a", "mine-1")
    manifest = json.loads((folder / "manifest.json").read_text())
    line = [
        {"name": name, "sha256": 64 * digit, "training_data": [], "licence": licence}
        for name, digit, licence in (("old-1", "1", "CC0"), ("old-2", "2", "CC0"), ("a2", "3", ""))
    ]
    (folder / "manifest.json").write_text(json.dumps(manifest | {"lineage": line}))
    assert main(["models", "--dir", "models", "mine-1"]) == 0
    began = [line for line in capsys.readouterr().out.splitlines() if "began from" in line]
    assert began == [
        "  began from  old-2 (its safetensors: 222222222222)",
        "  began from  old-1 (its safetensors: 111111111111)",
    ]
    assert main(["models", "--dir", "models"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert rows["mine-1"].split()[-2] == "old-2"


def test_models_tell_iou_from_the_recall_of_partial_marks(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model(weights, tmp_path / "models" / "a", "mine-1")
    manifest = json.loads((folder / "manifest.json").read_text())
    scores = {
        "marked pages": {"mean_recall": {"native": 0.9}, "before": 0.8},
        "generated pages": {"mean_iou": {"native": 0.7}, "before": 0.6},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest | {"scores": scores}))
    assert main(["models", "--dir", "models", "mine-1"]) == 0
    told = capsys.readouterr().out
    assert "score       marked pages: mean recall 0.900, 0.800 before" in told
    assert "score       generated pages: mean IoU 0.700, 0.600 before" in told
    assert main(["models", "--dir", "models"]) == 0
    assert "recall 0.900 on marked pages" in capsys.readouterr().out


def test_models_as_json_have_everything_that_manifests_say(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model(weights, tmp_path / "models" / "a", "mine-1")
    assert main(["models", "--dir", "models", "--json", "mine-1"]) == 0
    [said] = json.loads(capsys.readouterr().out)
    manifest = json.loads((tmp_path / "models/a/manifest.json").read_text())
    assert {key: said[key] for key in manifest} == manifest
    assert (said["folder"], said["shipped"], said["fault"]) == ("models/a", False, None)


def test_a_missing_model_and_a_missing_folder_are_wrong_usage(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["models", "nobody"]) == 2
    assert "no model is called nobody" in capsys.readouterr().err
    assert main(["models", "--dir", "nowhere"]) == 2
    assert "nowhere is not a folder" in capsys.readouterr().err
