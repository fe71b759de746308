"""What all tests share: how many examples a property gets, and which files parallel runs begin with.

`make test` gives each property a fifth of its examples; `.ci/run` repeats them with all of them
(`make test-slow`).
"""

import pytest
from hypothesis import settings

settings.register_profile("few", settings.get_profile("ci"), max_examples=20)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: a parallel run ends when its last file does."""
    items.sort(key=starts_late)


def starts_late(item: pytest.Item) -> bool:
    """Whether a test is in a file without the mark `long`. False sorts first."""
    return item.get_closest_marker("long") is None
