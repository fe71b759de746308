"""Make self-contained HTML files from the templates of this package."""

from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> bytes:
    """Fill a template; every value is escaped. `made_at` is the current time."""
    made_at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        _environment()
        .get_template(template)
        .render(made_at=made_at, **values)
        .encode(
            errors="backslashreplace"  # a file's name need not be UTF-8
        )
    )


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
