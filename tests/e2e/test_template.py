"""The template passes sam's checks, and the built stack keeps Lambda's limits."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from tools import ROOT, SAM, run

from cytomask.infra.template import load_template, made_up_environment

UNZIPPED_LIMIT = 250 * 2**20  # docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
# The zip functions, each with its modules beside the entry point.
ZIPS = {"evaluate": ("evaluator", "indexer"), "failures": ("recorder",), "api": ("desk", "plates")}
OF_OURS = {"CytomaskLayer": "python/cytomask/jobs.py"} | {
    f"{name.capitalize()}Function": f"functions/{name}/app.py" for name in ZIPS
}


def size(folder: Path) -> Any:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def files(folder: Path) -> Any:
    return {str(file.relative_to(folder)) for file in folder.rglob("*.py")}


def test_sam_and_cfn_lint_report_nothing() -> None:
    assert "is a valid SAM Template" in run(SAM, "validate", "--lint").stdout


@pytest.mark.parametrize("name", OF_OURS)
def test_the_zips_hold_our_code_and_fit_lambdas_limit(built: Any, name: Any) -> None:
    assert OF_OURS[name] in files(built / name)
    assert 0 < size(built / name) < UNZIPPED_LIMIT


def test_the_layer_holds_its_own_modules_and_packages_and_no_other_room(built: Any) -> None:
    source = ROOT / "layers" / "cytomask" / "cytomask"
    ours = {name for name in files(source) if not (source / name.partition("/")[0]).is_symlink()}
    assert "images/tiff.py" in ours
    assert files(built / "CytomaskLayer" / "python" / "cytomask") == ours


@pytest.mark.parametrize("name", ZIPS)
def test_a_function_and_its_layers_fit_lambda_s_limit_together(built: Any, name: Any) -> None:
    assert size(built / "CytomaskLayer") + size(built / f"{name.capitalize()}Function") < UNZIPPED_LIMIT


@pytest.mark.parametrize("mode", ["native", "resize"])
def test_the_layer_names_the_network_that_is_served(built: Any, mode: str) -> None:
    shipped = ROOT / "model" / "weights" / mode / "manifest.json"
    carried = built / "CytomaskLayer" / "python" / "cytomask" / f"manifest_{mode}.json"
    assert carried.read_bytes() == shipped.read_bytes()


def test_the_layer_has_what_the_project_pins_and_no_network(built: Any) -> None:
    packages = built / "CytomaskLayer" / "python"
    installed = {path.name.removesuffix(".dist-info") for path in packages.glob("*.dist-info")}
    with (ROOT / "pyproject.toml").open("rb") as file:
        pinned = tomllib.load(file)["project"]["dependencies"]
    wanted = {
        pin.replace("==", "-").replace("aws-lambda-powertools", "aws_lambda_powertools") for pin in pinned
    }
    of_the_image = ("contourpy", "onnxruntime", "roifile")
    assert {name for name in wanted if not name.startswith(of_the_image)} <= installed
    assert not [name for name in installed if name.startswith((*of_the_image, "torch", "scipy"))]


@pytest.mark.parametrize(("name", "modules"), ZIPS.items())
def test_a_zip_holds_its_own_function_only(built: Any, name: Any, modules: Any) -> None:
    assert files(built / f"{name.capitalize()}Function") == {
        "functions/__init__.py",
        f"functions/{name}/__init__.py",
        f"functions/{name}/app.py",
        *(f"functions/{name}/{module}.py" for module in modules),
    }


@pytest.mark.parametrize("name", ZIPS)
def test_the_zip_and_the_layer_start_in_lambda_s_python(built: Any, name: Any) -> None:
    started = run(
        "python3.13",
        "-c",
        f"from functions.{name}.app import handler; print(callable(handler))",
        PYTHONPATH=f"{built / f'{name.capitalize()}Function'}:{built / 'CytomaskLayer' / 'python'}",
        AWS_LAMBDA_FUNCTION_MEMORY_SIZE="3008",
        **made_up_environment(load_template()),
    )
    assert started.stdout == "True\n"
