"""Finding and starting a Docker engine for the e2e tests: what is said where there is none."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "e2e" / "docker_engine.sh"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A PATH with nothing but what every machine has, and a `docker` that no engine answers."""
    for name in ("bash", "cat", "env", "grep", "rm", "sleep", "tail"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    (tmp_path / "docker").write_text("#!/usr/bin/env bash\nexit 1\n")
    (tmp_path / "docker").chmod(0o755)
    return tmp_path


def test_where_no_engine_can_be_had_it_says_so_and_fails(programs: Path) -> None:
    ended = subprocess.run(
        ["bash", str(SCRIPT), "start"],
        env=os.environ | {"PATH": str(programs)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr == (
        "e2e tests need Docker: no Docker engine answers, and this is no Debian to install one on\n"
    )
