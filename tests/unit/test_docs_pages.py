"""The documents name files that exist, and the README stays short."""

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


def test_the_readme_has_at_most_120_lines() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120
