"""The image's content, and its behaviour without weights, disk space or memory."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from tools import BASE_IMAGE, ENVIRONMENT, IMAGE, ROOT, container, mask_of_command_line, run

from cytomask import images
from cytomask.samples.fields import phase_contrast_field

MOST_ADDED_BYTES = 300_000_000
WEIGHTS = ROOT / "model" / "weights"
PATCHED = "/var/task/cytomask/model/weights"
FILL_TMP = """
import contextlib
with contextlib.suppress(OSError), open("/tmp/full", "wb", buffering=0) as file:
    while True:
        file.write(bytes(512))
"""

pytestmark = pytest.mark.usefixtures("built")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "picture.tif"
    tifffile.imwrite(path, phase_contrast_field(11, height=300, width=260).pixels)
    return path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Copy the served weights, for tests that damage them and mount them over the image's."""
    return Path(shutil.copytree(WEIGHTS, tmp_path / "weights"))


def size_of(image: str) -> int:
    return int(run("docker", "image", "inspect", "--format", "{{.Size}}", image).stdout)


def python(code: str, *options: str) -> str:
    """Run a line of Python inside the image; return its output."""
    return run("docker", "run", "--rm", "--entrypoint=python3", *options, IMAGE, "-c", code).stdout


def test_the_image_adds_at_most_300_mb_to_its_base() -> None:
    assert size_of(IMAGE) - size_of(BASE_IMAGE) <= MOST_ADDED_BYTES


def test_any_user_can_read_every_file_and_nothing_but_tmp_is_written() -> None:
    walk = (
        "import os; from pathlib import Path;"
        "print(*[path for path in Path('/var/task').rglob('*') if not os.access(path, os.R_OK)])"
    )
    assert python(walk, "--user=993:990", "--read-only").strip() == ""


def test_the_image_holds_no_training_code_checkpoint_or_tests() -> None:
    listing = python("from pathlib import Path; print(*Path('/var/task').rglob('*'), sep='\\n')").splitlines()
    wrong = re.compile(r"/(torch|training|cli|infra|tests|swin_unet\.py|export\.py)$|\.(safetensors|pyi)$")
    assert [path for path in listing if wrong.search(path)] == []


def test_every_module_of_ours_is_compiled_for_good() -> None:
    flags = (
        "from pathlib import Path;"
        "print(*[f'{p.name}:{p.read_bytes()[4]}' for d in ('cytomask', 'functions')"
        " for p in Path('/var/task', d).rglob('*.pyc')])"
    )
    compiled = dict(item.rsplit(":", 1) for item in python(flags).split())
    assert {"app.cpython-313.pyc", "predictor.cpython-313.pyc", "jobs.cpython-313.pyc"} <= set(compiled)
    assert set(compiled.values()) == {"1"}  # PEP 552: by the source's hash, never looked at again


def test_no_image_is_built_of_weights_that_are_not_the_manifests(tmp_path: Path) -> None:
    for part in ("functions", "layers", "model", "pyproject.toml", "constraints.txt", ".dockerignore"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tmp_path / part)
    onnx = next((tmp_path / "model" / "weights" / "resize").glob("*.onnx"))
    onnx.write_bytes(onnx.read_bytes() + b"\0")
    dockerfile = tmp_path / "functions" / "segment" / "Dockerfile"
    base = f"--build-arg=BASE_IMAGE={BASE_IMAGE}"
    built = subprocess.run(
        ["docker", "build", "--force-rm", base, "--file", dockerfile, tmp_path],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode != 0
    assert "but its manifest says" in built.stdout + built.stderr


def remove_manifest(weights: Path) -> None:
    (weights / "native" / "manifest.json").unlink()


def remove_onnx(weights: Path) -> None:
    next(weights.glob("resize/*.onnx")).unlink()


def swap_sha256(weights: Path) -> None:
    path = weights / "native" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sha256": "0" * 64}))


@pytest.mark.parametrize(
    ("spoil", "fault", "file"),
    [
        (remove_manifest, "no weights to serve", "native/manifest.json"),
        (remove_onnx, "no weights to serve", "resize/swin_unet.onnx"),
        (swap_sha256, f"but its manifest says {'0' * 64}", "native/swin_unet.onnx"),
    ],
)
def test_without_the_right_weights_it_says_so_and_writes_no_mask(
    spoil: Any, fault: str, file: str, weights: Path, store: Any, environment: Any, picture: Path
) -> None:
    spoil(weights)
    image = store.upload(f"{spoil.__name__}.tif", picture)
    with container(environment, f"--volume={weights}:{PATCHED}:ro") as function:
        answer = function.invoke({"image": image})
        assert answer["errorType"] == "WeightsError"
        assert fault in answer["errorMessage"]
        assert f"{PATCHED}/{file}" in answer["errorMessage"]
        assert answer["errorMessage"] in function.log
    assert store.jobs(image) == []


def test_a_read_only_disk_does_not_stop_the_function(
    store: Any, environment: Any, picture: Path, tmp_path: Path
) -> None:
    image = store.upload("read-only.tif", picture)
    with container(environment, "--read-only", "--tmpfs=/tmp") as function:
        [result] = function.invoke({"image": image})
    np.testing.assert_array_equal(store.mask(result["mask"]), mask_of_command_line(picture, tmp_path))


def test_a_full_tmp_does_not_stop_the_function(
    store: Any, environment: Any, picture: Path, tmp_path: Path
) -> None:
    image = store.upload("full-tmp.tif", picture)
    with container(environment, "--read-only", "--tmpfs=/tmp:size=64k") as function:
        run("docker", "exec", function.name, "python3", "-c", FILL_TMP)
        [result] = function.invoke({"image": image})
    np.testing.assert_array_equal(store.mask(result["mask"]), mask_of_command_line(picture, tmp_path))


def test_an_image_too_large_for_the_memory_is_rejected_by_its_header(
    store: Any, environment: Any, tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "large.tif", np.arange(16_000_000, dtype=np.uint16).reshape(4000, 4000))
    image = store.upload("large.tif", tmp_path / "large.tif")
    with container(environment, memory_mb=512) as function:
        [result] = function.invoke({"image": image})
    [job] = store.jobs(image)
    assert (result["status"], job["status"], job["error_code"]) == ("REJECTED", "REJECTED", "IMAGE_TOO_LARGE")
    assert "512 MB" in job["error"]
    assert "decode" not in result["timings_ms"]


def test_the_same_memory_is_enough_for_an_ordinary_image(
    store: Any, environment: Any, picture: Path, tmp_path: Path
) -> None:
    image = store.upload("ordinary.tif", picture)
    with container(environment, memory_mb=512) as function:
        [result] = function.invoke({"image": image})
    np.testing.assert_array_equal(store.mask(result["mask"]), mask_of_command_line(picture, tmp_path))


@pytest.mark.parametrize(
    ("dtype", "channels", "options"),
    [
        ("float64", 1, {}),
        (
            "float64",
            3,
            {"photometric": "rgb", "compression": "zlib", "predictor": True, "rowsperstrip": 2000},
        ),
        ("uint16", 24, {"photometric": "minisblack", "planarconfig": "contig", "compression": "zlib"}),
    ],
    ids=["grey", "colours in one strip", "channels"],
)
def test_the_largest_page_that_is_taken_fits_into_the_memory(
    store: Any, environment: Any, tmp_path: Path, dtype: str, channels: int, options: dict[str, Any]
) -> None:
    decoded = channels * np.dtype(dtype).itemsize
    limits = images.Limits.within(512)
    width = limits.page_bytes // (decoded + max(decoded, images.BYTES_OF_WORK)) // 2000
    page = np.random.default_rng(0).integers(0, 9, (2000, width, channels)).astype(dtype)
    tifffile.imwrite(tmp_path / "largest.tif", page.squeeze(), **options)
    image = store.upload("largest.tif", tmp_path / "largest.tif")
    asked = {"image": image, "outputs": ["mask", "probability", "overlay"]}
    if options.get("photometric") == "minisblack":
        asked["channel"] = 0
    with container(environment, memory_mb=512) as function:
        [result] = function.invoke(asked)
    assert (result["status"], result["pages"][0]["width"]) == ("SUCCEEDED", width)
