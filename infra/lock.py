"""Locks what is deployed, by hash: `make lock`, after a change of pyproject.toml or constraints.txt.

Writes one file for the segment function's image and one for the layer, which has no network to run. pip
installs them with --require-hashes. Each names the versions of constraints.txt and the hashes of their wheels
for Lambda's Linux, on each Python that the project runs on.
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
# What each leaves out of pyproject.toml's dependencies.
LOCKS = MappingProxyType(
    {
        ROOT / "functions" / "segment" / "requirements.txt": (),
        ROOT / "layers" / "cytomask" / "requirements.txt": ("onnxruntime",),
    }
)

Locked = dict[str, set[str]]  # hashes of `name==version`


def main() -> None:
    """Writes both files."""
    for path, left_out in LOCKS.items():
        locked: Locked = {}
        for python in PYTHONS:
            for requirement, digest in wheels(dependencies(left_out), python):
                locked.setdefault(requirement, set()).add(digest)
        path.write_text(written(locked))


def dependencies(left_out: Sequence[str] = ()) -> list[str]:
    """The project's own dependencies as pyproject.toml names them."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        named: list[str] = tomllib.load(file)["project"]["dependencies"]
    return [each for each in named if each.partition("==")[0] not in left_out]


def wheels(named: Sequence[str], python: str) -> list[tuple[str, str]]:
    """What pip would install of these and of what they need: `name==version` and sha256 of the wheel."""
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
    """The text of a file of requirements with their hashes."""
    lines = [f"# Made by `make lock`: wheels for Lambda's Linux on Python {', '.join(PYTHONS)}."]
    for requirement, digests in sorted(locked.items()):
        lines.append(" \\\n".join([requirement, *(f"    --hash=sha256:{one}" for one in sorted(digests))]))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
