"""Everything that the docs tell a reader to type exists: commands, options, make targets, policy files."""

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cytomask.cli.main import make_parser
from cytomask.infra.template import TEMPLATE

ROOT = TEMPLATE.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"```(?:sh|bash|shell)?[^\n]*\n(.*?)```", re.DOTALL)
TARGETS = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def lines_to_type(page: Path) -> Iterator[str]:
    """Yield each command line of a page, continued lines joined, without comments."""
    for block in BLOCK.findall(page.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            yield re.sub(r"\s+#.*", "", line).strip()


def typed(program: str) -> list[tuple[str, str]]:
    """Every line of every page that begins with a program, and the page's name."""
    return [
        (page.name, line)
        for page in PAGES
        for line in lines_to_type(page)
        if line.removeprefix(".venv/bin/").startswith(f"{program} ")
    ]


COMMANDS = typed("cytomask")


def test_the_docs_contain_commands() -> None:
    assert len(COMMANDS) > 20


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_every_command_in_the_docs_parses(page: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    if "…" in line or "COMMAND" in line:
        pytest.skip("a placeholder, not a command")
    words = shlex.split(line.partition(" | ")[0].partition(" > ")[0])[1:]
    try:
        make_parser(words[:1]).parse_args(words)
    except SystemExit as ended:
        assert ended.code == 0, f"{page}: {line}\n{capsys.readouterr().err}"


@pytest.mark.parametrize(("page", "line"), typed("make"))
def test_every_make_target_in_the_docs_exists(page: str, line: str) -> None:
    targets = [word for word in shlex.split(line)[1:] if "=" not in word and not word.startswith("-")]
    assert set(targets) <= TARGETS, page


def test_a_deployment_keeps_the_parameters_that_it_does_not_name() -> None:
    """sam's guided mode and its file name all of them, and so undo `attach` and `promote`."""
    printed = subprocess.run(
        ["make", "--dry-run", "deploy"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    [deployed] = re.findall(r"sam deploy.*", printed)
    assert "--guided" not in deployed
    configured = tomllib.loads((ROOT / "samconfig.toml").read_text())["default"]["deploy"]["parameters"]
    assert configured["stack_name"] == "cytomask"
    assert "parameter_overrides" not in configured


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_variable_in_a_command_is_set_on_its_page(page: Path) -> None:
    typed_text = "\n".join(lines_to_type(page))
    text = re.sub(r"'[^']*'|\\\$", "", typed_text)  # the shell expands nothing there
    set_before = set(re.findall(r"(?:^|\s)([A-Z_]+)=", typed_text)) | {"PWD", "PATH", "HOME"}
    assert set(re.findall(r"\$\{?([A-Z_]+)", text)) <= set_before


def test_the_deployers_policy_is_filled_in_as_the_page_says(tmp_path: Path) -> None:
    [command] = [line for line in lines_to_type(ROOT / "docs" / "deploy.md") if "deployer.json >" in line]
    filled = subprocess.run(
        ["bash", "-c", command.partition(" > ")[0]],
        cwd=ROOT,
        env={"ACCOUNT": "123456789012", "REGION": "eu-central-1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "${" not in filled
    assert "arn:aws:iam::123456789012:role/cytomask-SegmentRole-*" in filled


def test_a_base_image_reaches_the_build_that_reads_it() -> None:
    [line] = [line for page, line in typed("make") if page == "deploy.md" and "BaseImage=" in line]
    printed = subprocess.run(
        ["make", "--dry-run", *shlex.split(line)[1:]], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    [build] = re.findall(r"sam build.*", printed)
    assert build.startswith("sam build --parameter-overrides BaseImage=public.ecr.aws/")
