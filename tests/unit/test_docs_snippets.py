"""The Python of the docs runs as it stands; the Fiji macro follows the grammar of ImageJ's macro language.

Fiji and napari themselves are not run: they need a Java machine and a screen.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from cytomask.cli.ledger import COLUMNS
from cytomask.cli.tables import write_csv
from cytomask.exports import MaskExports
from cytomask.lengths import PixelSize
from cytomask.model.predictor import WEIGHTS
from cytomask.samples.fields import phase_contrast_field

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"(?P<note><!-- needs a screen -->\n)?```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)
FIELD = phase_contrast_field(1, 120, 160, confluence=0.3)


def snippets(page: str, language: str) -> list[str]:
    """Return a page's code in one language, without code that needs a screen."""
    found = BLOCK.finditer((DOCS / page).read_text(encoding="utf-8"))
    return [one["text"] for one in found if one["language"] == language and not one["note"]]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with the files that the docs name."""
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("field.tif", FIELD.pixels)
    tifffile.imwrite("stack.tif", np.stack([FIELD.pixels] * 12), photometric="minisblack")
    channels: dict[str, Any] = {"imagej": True, "metadata": {"axes": "CYX"}}
    tifffile.imwrite("two_channels.tif", np.stack([FIELD.pixels] * 2), **channels)
    Image.fromarray(FIELD.cells.astype(np.uint8) * 255).save("field_mask.png")
    rows = [
        dict.fromkeys(COLUMNS, "")
        | {"file": f"P7_Phase_B02_1_00d{hour:02d}h00m.tif", "page": 0, "confluence": 0.1 * 2 ** (hour / 20)}
        for hour in range(0, 24, 2)
    ]
    write_csv(Path("pages.csv"), COLUMNS, rows)
    shutil.copytree(WEIGHTS, "my_weights")
    return tmp_path


@pytest.mark.usefixtures("bench")
def test_the_python_of_the_docs_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for text in snippets("python.md", "python"):
        exec(compile(text, "docs/python.md", "exec"), names)
    assert "P7 B02 4.0" in capsys.readouterr().out
    assert names["wells"]["B02"].doubling_time_h == pytest.approx(20, rel=0.1)
    assert names["well"].doubling_time_h > 10
    assert names["score"].iou > 0.5


def test_the_notebook_runs_and_is_kept_without_its_outputs(capsys: pytest.CaptureFixture[str]) -> None:
    notebook = json.loads((DOCS / "notebook.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    names: dict[str, Any] = {}
    for cell in cells:
        exec(compile("".join(cell["source"]), f"notebook.ipynb, {cell['id']}", "exec"), names)
    assert [cell["outputs"] for cell in cells] == [[]] * len(cells)
    assert names["score"].iou > 0.8
    assert names["well"].doubling_time_h == pytest.approx(names["drawn"].doubling_time_h, rel=0.15)
    assert "doubling time" in capsys.readouterr().out


def test_the_napari_reader_gives_layers(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    for text in snippets("exports.md", "python"):
        exec(compile(text, "docs/exports.md", "exec"), names)
    exports = MaskExports(FIELD.cells, name="a", pixel_size=PixelSize(0.65, 0.7))
    for kind, ending in (("labels", "labels.tif"), ("ome", "mask.ome.tif")):
        path = tmp_path / f"a.tif.{ending}"
        path.write_bytes(exports.encode(kind))
        [(cells, options, layer)] = names["napari_get_reader"](str(path))(str(path))
        assert np.array_equal(cells > 0, FIELD.cells)
        assert (options["name"], options["scale"], layer) == ("cells", [0.7, 0.65], "labels")
    assert names["napari_get_reader"]("a.png") is None


# imagej.net/ij/developer/macro/functions.html
FUNCTIONS = {"open", "roiManager", "run", "saveAs"}
ROI_MANAGER = {"reset", "open", "show all", "deselect", "measure"}
STRING = r'"(?:[^"\\]|\\.)*"'
VALUE = rf"(?:{STRING}|\d+(?:\.\d+)?|[A-Za-z_]\w*)"
STATEMENT = re.compile(
    rf"(?://.*|(?P<name>[A-Za-z_]\w*) = {VALUE};|(?P<call>\w+)\((?P<values>(?:{VALUE}(?:, )?)*)\);)"
)


def test_the_fiji_macro_follows_the_grammar_and_calls_what_there_is() -> None:
    (macro,) = snippets("exports.md", "javascript")
    known: set[str] = set()
    for line in macro.splitlines():
        statement = STATEMENT.fullmatch(line)
        assert statement, line
        if statement["name"]:
            known.add(statement["name"])
        if statement["call"]:
            assert statement["call"] in FUNCTIONS
            values = re.findall(VALUE, statement["values"])
            assert {value for value in values if value[0].isalpha()} <= known
            if statement["call"] == "roiManager":
                assert values[0].strip('"') in ROI_MANAGER
    assert known == {"image", "rois"}
    assert len(macro.splitlines()) <= 12
