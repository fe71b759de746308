"""Lock the deployed packages by hash: run `make lock` after changing a dependency.

One requirements file is for the segment function's image. The other is for the layer, which neither runs
networks nor encodes masks. pip installs both with --require-hashes. Each lists the versions from
constraints.txt and the hashes of their wheels for Lambda's Linux, for every Python version that the project
supports.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

from cytomask.infra.children import ROOT

PYTHONS = ("3.11", "3.12", "3.13")
# Amazon Linux 2023 has glibc 2.34.
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64")
# The dependencies in pyproject.toml that each file leaves out.
LOCKS = MappingProxyType(
    {
        ROOT / "functions" / "segment" / "requirements.txt": (),
        ROOT / "layers" / "cytomask" / "requirements.txt": ("contourpy", "onnxruntime", "roifile"),
    }
)

Locked = dict[str, set[str]]  # `name==version` -> hashes of its wheels


def main() -> None:
    """Write both files."""
    for path, left_out in LOCKS.items():
        locked: Locked = {}
        for python in PYTHONS:
            for requirement, digest in wheels(dependencies(left_out), python):
                locked.setdefault(requirement, set()).add(digest)
        path.write_text(written(locked))


def dependencies(left_out: Sequence[str] = ()) -> list[str]:
    """List the project's own dependencies, as written in pyproject.toml."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        named: list[str] = tomllib.load(file)["project"]["dependencies"]
    return [each for each in named if each.partition("==")[0] not in left_out]


def wheels(named: Sequence[str], python: str) -> list[tuple[str, str]]:
    """Resolve requirements as pip would; return `name==version` and the wheel's sha256 for each package."""
    platforms = [option for platform in PLATFORMS for option in ("--platform", platform)]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"),
                *("--report", str(report), "--target", folder, "--only-binary", ":all:"),
                *("--python-version", python, *platforms),
                *("--constraint", str(ROOT / "constraints.txt"), *named),
            ],
            check=True,
        )
        chosen = json.loads(report.read_text())["install"]
    return [
        (
            f"{one['metadata']['name'].lower().replace('_', '-')}=={one['metadata']['version']}",
            one["download_info"]["archive_info"]["hashes"]["sha256"],
        )
        for one in chosen
    ]


def written(locked: Locked) -> str:
    """Format the locked packages as a requirements file."""
    lines = [f"# Made by `make lock`: wheels for Lambda's Linux on Python {', '.join(PYTHONS)}."]
    for requirement, digests in sorted(locked.items()):
        lines.append(" \\\n".join([requirement, *(f"    --hash=sha256:{one}" for one in sorted(digests))]))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
