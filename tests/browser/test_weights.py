"""From the first stroke on a mask to the first mask by weights that learnt from it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Served
from playwright.sync_api import Page, expect
from test_circle import MADE, drag, open_page, send

from cytomask.cli.main import main

Command = Callable[..., None]


@pytest.fixture
def command(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """Run a command on the stack; afterwards the stack has the container's weights again."""
    monkeypatch.setenv("CYTOMASK_MODELS", str(tmp_path / "models"))

    def run(*words: str) -> None:
        assert main([*words, "--endpoint-url", served.stack.endpoint]) == 0

    yield run
    run("promote", "baked-in", "--yes", "--limit", "1")


def test_a_corrected_page_becomes_the_weights_of_the_next_mask(
    page: Page, served: Served, field_tiff: Callable[..., Path], command: Command
) -> None:
    open_page(page, served, send(page, field_tiff("taught.tif", seed=11)))
    page.get_by_role("button", name="Correct the mask").click()
    page.get_by_role("button", name="Lasso").click()
    drag(page, (0.2, 0.2), (0.5, 0.2), (0.5, 0.5), (0.2, 0.5))
    page.get_by_role("button", name="Save as ground truth").click()
    expect(page.locator("#iou")).to_contain_text("IoU 0.", timeout=MADE)

    command("finetune", "--from-stack", "--since", "1h", "--steps", "2", "--name", "taught")
    command("promote", "taught", "--yes", "--limit", "1")

    open_page(page, served, send(page, field_tiff("after.tif", seed=12)))
    expect(page.locator(".panel")).to_contain_text("taught", timeout=MADE)
