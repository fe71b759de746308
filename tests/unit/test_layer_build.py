"""The layer's Makefile, run as `sam build` runs it: on a copy whose links have become folders."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cytomask.infra.children import ROOT

LAYER = ROOT / "layers" / "cytomask"
# Stands in for `python3.13`: installs nothing, compiles with this Python.
PYTHON = """#!/bin/sh
case "$2" in
    pip) mkdir -p "$PACKAGES_FOLDER" ;;
    *) shift; exec {python} -m "$@" ;;
esac
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layer")
    source, artifacts, tools = folder / "source", folder / "artifacts", folder / "tools"
    shutil.copytree(LAYER, source, ignore=shutil.ignore_patterns("__pycache__"))
    tools.mkdir()
    stand_in = tools / "python3.13"
    stand_in.write_text(PYTHON.format(python=sys.executable))
    stand_in.chmod(0o755)
    subprocess.run(
        ["make", "-C", str(source), "build-CytomaskLayer", f"ARTIFACTS_DIR={artifacts}"],
        check=True,
        capture_output=True,
        env={
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "PACKAGES_FOLDER": str(artifacts / "python"),
        },
    )
    return artifacts / "python" / "cytomask"


def test_the_layer_holds_every_module_and_none_of_the_linked_folders(built: Path) -> None:
    package = LAYER / "cytomask"
    linked = {path.name for path in package.iterdir() if path.is_symlink() and path.is_dir()}
    ours = [path for path in package.iterdir() if path.name not in linked | {"__pycache__"}]
    modules = {
        module.relative_to(package)
        for path in ours
        for module in (path.rglob("*.py") if path.is_dir() else [path] if path.suffix == ".py" else [])
    }
    assert {path.relative_to(built) for path in built.rglob("*.py")} == modules
    assert {path.name for path in built.iterdir()} & linked == set()


def test_the_layer_names_the_weights_by_their_manifests(built: Path) -> None:
    for mode in ("native", "resize"):
        manifest = (built / f"manifest_{mode}.json").read_bytes()
        assert manifest == (ROOT / "model" / "weights" / mode / "manifest.json").read_bytes()


def test_the_build_imports_the_handlers_of_the_zip_functions_and_keeps_none(built: Path) -> None:
    text = (LAYER / "Makefile").read_text()
    assert "functions.import_check evaluate failures api" in text
    assert not (built.parent / "functions").exists()


def test_a_handler_that_cannot_be_imported_ends_the_build(tmp_path: Path) -> None:
    copied = tmp_path / "functions"
    shutil.copytree(ROOT / "functions", copied, ignore=shutil.ignore_patterns("__pycache__"))
    with (copied / "api" / "app.py").open("a") as app:
        app.write("\nimport no_such_library\n")
    checked = subprocess.run(
        [sys.executable, "-m", "functions.import_check", "api"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode != 0
    assert "No module named 'no_such_library'" in checked.stderr
