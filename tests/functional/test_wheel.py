"""The wheel holds one package with everything the commands need; they run without a checkout."""

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import tifffile
from PIL import Image

from cytomask import __version__
from cytomask.samples.fields import phase_contrast_field

ROOT = Path(__file__).parents[2]
PARTS = ("LICENSE", "README.md", "pyproject.toml", "template.yaml")
FOLDERS = ("cli", "functions", "infra", "layers", "model", "samples", "training", "web")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the sources, so that the checkout stays unchanged."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PARTS:
        shutil.copy(ROOT / name, source / name)
    for name in FOLDERS:
        unwanted = shutil.ignore_patterns("__pycache__", "*.partial")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=unwanted)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder)]
    subprocess.run([*command, str(source)], check=True)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a new environment that borrows dependencies from ours; return its programs."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    site = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    install = [sys.executable, "-m", "pip", "--python", str(folder), "install", "--quiet", "--no-deps"]
    subprocess.run([*install, "--no-index", str(wheel)], check=True)
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    Path(site, "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return folder / "bin"


def run(programs: Path, folder: Path, *command: str) -> str:
    done = subprocess.run(
        [str(programs / command[0]), *command[1:]],
        cwd=folder,
        env={"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_puts_one_name_into_site_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {"cytomask", f"cytomask-{__version__}.dist-info"}
    for needed in (
        "py.typed",
        "template.yaml",
        "infra/queries/why-failed.txt",
        "model/weights/native/swin_unet.onnx",
        "web/static/index.html",
    ):
        assert f"cytomask/{needed}" in names


def test_the_installed_package_is_the_wheels(programs: Path, tmp_path: Path) -> None:
    script = (
        "import cytomask, cytomask.model as m; print(cytomask.__version__, cytomask.__file__, m.__file__)"
    )
    version, package, model = run(programs, tmp_path, "python", "-c", script).split()
    site = str(programs.parent)
    assert (version, package.startswith(site), model.startswith(site)) == (__version__, True, True)


def test_segment_writes_a_mask(programs: Path, tmp_path: Path) -> None:
    field = phase_contrast_field(1, 240, 320)
    tifffile.imwrite(tmp_path / "field.tif", field.pixels)
    run(programs, tmp_path, "cytomask", "segment", "field.tif", "--out", "masks")
    with Image.open(tmp_path / "masks" / "field.tif.mask.png") as mask:
        assert (mask.mode, mask.size) == ("L", (320, 240))


def test_the_demo_sends_an_image_through_the_emulated_stack(programs: Path, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "field.tif", phase_contrast_field(1, 240, 320).pixels)
    run(programs, tmp_path, "cytomask", "demo", "field.tif", "--out", "out")
    assert [path.name for path in tmp_path.glob("out/**/*.mask.png")] == ["field.tif.mask.png"]


def test_the_wheel_describes_itself(programs: Path, tmp_path: Path) -> None:
    script = (
        "import json; from importlib.metadata import metadata; kept = metadata('cytomask');"
        "print(json.dumps([kept['Version'], kept['License-Expression'], kept.get_all('Provides-Extra')]))"
    )
    version, licence, extras = json.loads(run(programs, tmp_path, "python", "-c", script))
    assert (version, licence) == (__version__, "Apache-2.0")
    assert {"local", "train", "dev"} <= set(extras)
