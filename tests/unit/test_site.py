"""The generated pages of the docs' site."""

import re
from pathlib import Path

import pytest
import yaml

from cytomask.infra import site

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    site.stage(folder)
    return folder


def test_the_http_reference_has_every_call_and_every_schema(staged: Path) -> None:
    document = yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text(encoding="utf-8"))
    page = (staged / "docs" / "http.md").read_text(encoding="utf-8")
    calls = [f"{method.upper()} {path}" for path, told in document["paths"].items() for method in told]
    assert sorted(re.findall(r"^## ((?:GET|POST|PUT|DELETE) .*)$", page, re.MULTILINE)) == sorted(calls)
    anchors = set(re.findall(r"\{ #(schema-\w+) \}", page))
    assert anchors == {f"schema-{name.lower()}" for name in document["components"]["schemas"]}
    assert set(re.findall(r"\(#(schema-\w+)\)", page)) <= anchors
    assert "| `min_size_px` | query | integer, 0 to 1,000,000,000 |" in page


def test_the_python_reference_names_what_is_public(staged: Path) -> None:
    page = (staged / "docs" / "api.md").read_text(encoding="utf-8")
    assert "::: cytomask.notebook.segment" in page
    assert "::: cytomask.well_growth.Growth" in page
    assert "::: cytomask.model.predictor.Prediction" in page


def test_every_page_in_the_navigation_is_staged(staged: Path) -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = re.findall(r"[\w/.-]+\.md", str(config["nav"]))
    assert [page for page in pages if not (staged / page).exists()] == []
    assert not (staged / "README.md").exists()


def test_links_to_folders_of_code_become_text(staged: Path) -> None:
    assert "](../layers/" not in (staged / "docs" / "formats.md").read_text(encoding="utf-8")
