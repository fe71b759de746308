"""The documents name files that exist, and the README stays short."""

import ast
import re
from pathlib import Path

import pytest

from cytomask.infra.children import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("model/weights/*.md")])
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)(?:#[^)]*)?\)")
NAMED_FILE = re.compile(
    r"`((?:cytomask|functions|model|training|infra|cli|layers|samples|web|docs)/[\w./-]+)`"
)


def named_files(page: Path) -> list[str]:
    """List the files that a page names in backticks; `cytomask/` stands for the layer's package."""
    found = NAMED_FILE.findall(page.read_text(encoding="utf-8"))
    return [re.sub(r"^cytomask/", "layers/cytomask/cytomask/", name) for name in found]


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = LINK.findall(page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("name", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_every_file_that_is_named_exists(name: str) -> None:
    assert [named for named in named_files(ROOT / name) if not (ROOT / named).exists()] == []


def test_the_architecture_names_every_module_of_the_layer() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    package = ROOT / "layers" / "cytomask" / "cytomask"
    names = {path.name for path in package.iterdir() if path.suffix == ".py" and path.name != "__init__.py"}
    names |= {f"{path.name}/" for path in package.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert {name for name in names if name not in text} == set()


def test_every_document_can_be_reached_from_the_readme() -> None:
    reached, open_pages = set(), [ROOT / "README.md"]
    while open_pages:
        page = open_pages.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        links = LINK.findall(page.read_text(encoding="utf-8"))
        open_pages += [(page.parent / link).resolve() for link in links]
    assert {page for page in PAGES if page.is_relative_to(ROOT / "docs")} - reached == set()


def events_logged(path: Path) -> set[str]:
    """Find the events that a module logs: the texts in the first argument of calls of its logger."""
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    of_logger = [
        call.args[0]
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in ("info", "warning", "error", "exception")
        and call.args
    ]
    found = (node for named in of_logger for node in ast.walk(named))
    texts = (node.value for node in found if isinstance(node, ast.Constant))
    return {text for text in texts if isinstance(text, str) and re.fullmatch(r"[a-z]+(_[a-z]+)+", text)}


def test_every_event_in_the_functions_logs_is_explained() -> None:
    modules = [*(ROOT / "functions").rglob("*.py"), *(ROOT / "layers/cytomask/cytomask").glob("*.py")]
    logged = set().union(*map(events_logged, modules))
    assert {"mask_written", "evaluation_taken_back", "job_failed"} <= logged
    explained = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("docs/*.md"))
    assert {event for event in logged if f"`{event}`" not in explained} == set()


def test_the_readme_has_at_most_120_lines() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120
