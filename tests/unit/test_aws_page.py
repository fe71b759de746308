"""docs/aws.md: what only AWS does, each with the test that guards its remedy."""

import ast
import re
from types import SimpleNamespace
from typing import Any

import pytest

from cytomask.cli.check import StepFailed, Trial, look_at_function
from cytomask.infra.children import ROOT

PAGE = (ROOT / "docs" / "aws.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| what")]


def test_every_guard_that_the_page_names_is_a_test() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    tests = {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    assert named - tests == set()


def test_every_row_of_the_page_has_a_guard_or_says_why_not() -> None:
    assert len(ROWS) > 10
    assert [row for row in ROWS if "`test_" not in row and "| none: " not in row] == []


def trial(state: str) -> Trial:
    """A check of a stack whose function is in a state and takes messages."""
    functions = SimpleNamespace(
        get_function_configuration=lambda **_: {"State": state},
        list_event_source_mappings=lambda **_: {"EventSourceMappings": [{"State": "Enabled"}]},
    )
    stack: Any = SimpleNamespace(name="cytomask", client=lambda _: functions)
    return Trial(stack, seconds=1)


def test_a_function_that_was_idle_is_healthy() -> None:
    assert look_at_function(trial("Inactive")) == "cytomask-segment takes messages from its queue"


def test_a_function_that_failed_is_not_healthy() -> None:
    with pytest.raises(StepFailed, match="cytomask-segment is Failed; deploy the stack again"):
        look_at_function(trial("Failed"))
