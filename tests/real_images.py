"""The folder of real images: CYTOMASK_TEST_DATA, or ../shared/data beside the checkout."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("CYTOMASK_TEST_DATA") or ROOT.parent / "shared" / "data")
LIVECELL = DATA / "livecell"


def needs(path: Path) -> pytest.MarkDecorator:
    """Skip the test with a reason if the real images lack this file or folder."""
    return pytest.mark.skipif(
        not path.exists(),
        reason=f"no {path.relative_to(DATA)} in the real images; set CYTOMASK_TEST_DATA to their folder",
    )
