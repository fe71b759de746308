"""The script that finds and starts Docker for the e2e tests says what to do if it cannot."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "e2e" / "docker_engine.sh"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Make a PATH of basic programs and a `docker` that reaches no engine."""
    for name in ("bash", "cat", "env", "grep", "rm", "sleep", "tail"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    (tmp_path / "docker").write_text("#!/usr/bin/env bash\nexit 1\n")
    (tmp_path / "docker").chmod(0o755)
    return tmp_path


def test_without_a_container_engine_the_build_fails_with_a_reason(programs: Path) -> None:
    ended = subprocess.run(
        ["bash", str(SCRIPT), "start"],
        env=os.environ | {"PATH": str(programs)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr == (
        "e2e tests need Docker: no Docker engine answers; "
        "install one (this script can do it on Debian only)\n"
    )
