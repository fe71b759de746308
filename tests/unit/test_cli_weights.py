"""`cytomask segment --weights`: a folder, or a name."""

import shutil
from pathlib import Path

import pytest
import tifffile

from cytomask.cli.main import main
from cytomask.cli.weights import find_weights
from cytomask.model.predictor import WEIGHTS, WeightsError, read_manifest
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
    assert find_weights(name, "native") == WEIGHTS
    with pytest.raises(WeightsError, match=f"{name} is for --mode native, not for resize"):
        find_weights(name, "resize")


def test_what_is_neither_folder_nor_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(
        WeightsError, match=r"nowhere is neither a folder nor the name of weights that ship \(swin"
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
    assert "describes a network for native, but lies in the folder for resize" in capsys.readouterr().err
    assert not Path("other").exists()
