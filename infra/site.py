"""Stage the pages of the docs' site: `python infra/site.py FOLDER`, which `make docs` runs before mkdocs.

It copies the repository's Markdown in its own layout, so that relative links keep working, and makes three
pages: HTTP from openapi.yaml, the Python names from their docstrings, and the notebook as text.
It runs in the site's own environment, so it cannot import cytomask.
"""

import json
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
COPIED = (
    *("*.md", "LICENSE", "docs/**/*.md", "model/weights/*.md"),
    *("docs/*.png", "docs/*.json", "docs/*.yaml", "docs/*.ipynb"),
)
FOLDER_LINK = re.compile(r"\[([^]]+)\]\((?!https?:)[^)#]*/\)")  # to folders of code; the site has none
PUBLIC = ("segment", "read_page", "score", "growth", "read_acquisition", "Predictor")
RECORDS = ("Prediction", "Score", "Growth", "Acquisition")
METHODS = ("get", "post", "put", "patch", "delete")


def stage(folder: Path) -> None:
    """Empty a folder and write every page of the site into it."""
    shutil.rmtree(folder, ignore_errors=True)
    for pattern in COPIED:
        for source in ROOT.glob(pattern):
            target = folder / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.suffix == ".md":
                target.write_text(
                    FOLDER_LINK.sub(r"\1", source.read_text(encoding="utf-8")), encoding="utf-8"
                )
            else:
                shutil.copyfile(source, target)
    (folder / "README.md").rename(folder / "index.md")
    document = yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text(encoding="utf-8"))
    (folder / "docs" / "http.md").write_text(http_page(document), encoding="utf-8")
    (folder / "docs" / "api.md").write_text(python_page(), encoding="utf-8")
    notebook = json.loads((ROOT / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))
    (folder / "docs" / "notebook.md").write_text(notebook_page(notebook), encoding="utf-8")


def python_page() -> str:
    """Make the page of the public names; mkdocstrings fills in their docstrings."""
    names = [f"::: cytomask.notebook.{name}" for name in PUBLIC]
    records = [f"::: {path}" for path in map(_home_of, RECORDS)]
    return "\n\n".join(
        [
            "# Python names",
            "`from cytomask import …`. [Examples](python.md) show them at work.",
            "## Functions",
            *names,
            "## What they return",
            *records,
            "",
        ]
    )


def _home_of(record: str) -> str:
    """Find the module that defines a record, from the public module's imports."""
    text = (ROOT / "layers/cytomask/cytomask/notebook.py").read_text(encoding="utf-8")
    found = re.search(rf"^from (\S+) import [^\n]*\b{record}\b", text, re.MULTILINE)
    if found is None:
        raise SystemExit(f"notebook.py imports no {record}")
    return f"{found[1]}.{record}"


def notebook_page(notebook: Mapping[str, Any]) -> str:
    """Write a notebook as Markdown: its text, and its code in blocks."""
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join([*parts, ""])


def http_page(document: Mapping[str, Any]) -> str:
    """Write an OpenAPI document as Markdown: one section for each call, then one for each schema."""
    lines = ["# HTTP", document["info"]["description"], "The same as [openapi.yaml](openapi.yaml)."]
    for path, operations in document["paths"].items():
        for method in METHODS:
            if method in operations:
                lines += _operation(f"{method.upper()} {path}", operations[method], document)
    lines.append("## Schemas")
    for name, schema in document["components"]["schemas"].items():
        lines += [f"### {name} {{ #schema-{name.lower()} }}", *_schema(schema)]
    return "\n\n".join([*lines, ""])


def _operation(title: str, operation: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {title}"
    yield operation["summary"]
    if "description" in operation:
        yield operation["description"]
    parameters = [_resolved(each, document) for each in operation.get("parameters", ())]
    if parameters:
        yield _table(
            ("parameter", "in", "type", "meaning"),
            (
                (f"`{each['name']}`", each["in"], _type(each["schema"]), each.get("description", ""))
                for each in parameters
            ),
        )
    if "requestBody" in operation:
        yield f"Body: {_contents(operation['requestBody']['content'])}."
    answers = ((status, _resolved(each, document)) for status, each in operation["responses"].items())
    yield _table(
        ("status", "answer", "content"),
        ((status, told["description"], _contents(told.get("content", {}))) for status, told in answers),
    )


def _schema(schema: Mapping[str, Any]) -> Iterator[str]:
    if "description" in schema:
        yield schema["description"]
    if "enum" in schema:
        yield "One of " + ", ".join(f"`{value}`" for value in schema["enum"]) + "."
    required = set(schema.get("required", ()))
    properties = schema.get("properties", {})
    if properties:
        yield _table(
            ("field", "type", "meaning"),
            (
                (f"`{name}`{' (always)' * (name in required)}", _type(part), part.get("description", ""))
                for name, part in properties.items()
            ),
        )
    elif "enum" not in schema:
        yield f"{_type(schema)}."


def _resolved(part: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow a part's reference, if it is one."""
    found: Any = part
    if "$ref" in part:
        found = document
        for name in part["$ref"].removeprefix("#/").split("/"):
            found = found[name]
    return found  # type: ignore[no-any-return]


def _contents(contents: Mapping[str, Any]) -> str:
    told = [
        f"`{kind}`" + (f" ({_type(content['schema'])})" if content and "schema" in content else "")
        for kind, content in contents.items()
    ]
    return ", ".join(told)


def _type(schema: Mapping[str, Any]) -> str:
    """Describe a value's type in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#schema-{name.lower()})"
    for choice in ("oneOf", "anyOf", "allOf"):
        if choice in schema:
            return (" and " if choice == "allOf" else " or ").join(map(_type, schema[choice]))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    kinds = schema.get("type", "anything")
    told = " or ".join([kinds] if isinstance(kinds, str) else kinds)
    if "items" in schema:
        told += f" of {_type(schema['items'])}"
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        told += f", {low:,} to {high:,}"
    return told


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table, joining each cell's text into one line."""
    lines = [heads, ["---"] * len(heads)]
    lines += [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    stage(Path(sys.argv[1]))
