"""Image and layer install only what the project pins, and only wheels with the locked hashes."""

import re
from pathlib import Path

import pytest

from cytomask.infra.children import ROOT
from cytomask.infra.lock import LOCKS, dependencies, written

LINE = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>[\w.]+)( --hash=sha256:[0-9a-f]{64}){1,3}")


def versions(path: Path) -> dict[str, str]:
    """Read each package's version from a requirements file; every line must have hashes."""
    text = re.sub(r" \\\n +", " ", path.read_text())
    matches = [LINE.fullmatch(line) for line in text.splitlines() if not line.startswith("#")]
    return {match["name"]: match["version"] for match in matches if match or pytest.fail(text)}


def normal(requirement: str) -> str:
    return requirement.lower().replace("_", "-")


@pytest.mark.parametrize(("path", "left_out"), LOCKS.items(), ids=["image", "layer"])
def test_a_lock_has_pyprojects_dependencies_and_their_pinned_ones(
    path: Path, left_out: tuple[str, ...]
) -> None:
    pinned = {normal(line) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    locked = {f"{name}=={version}" for name, version in versions(path).items()}
    assert set(map(normal, dependencies(left_out))) <= locked <= pinned


def test_the_layer_has_what_the_image_has_without_the_network_s_runtime() -> None:
    image, layer = (versions(path) for path in LOCKS)
    assert layer.items() <= image.items()
    runtime, outlines = {"onnxruntime", "flatbuffers", "packaging", "protobuf"}, {"contourpy", "roifile"}
    assert image.keys() - layer.keys() == runtime | outlines


def test_a_lock_is_written_in_order_with_a_line_for_each_hash() -> None:
    assert written({"b==2": {"f0", "0f"}, "a==1": {"aa"}}).splitlines()[1:] == [
        "a==1 \\",
        "    --hash=sha256:aa",
        "b==2 \\",
        "    --hash=sha256:0f \\",
        "    --hash=sha256:f0",
    ]
