"""Chromium, the page's server and the emulated stack: everything real, on 127.0.0.1."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from cytomask.cli.stack import Stack
from cytomask.cli.web import account_of
from cytomask.infra.emulator import EmulatedStack, emulated_stack
from cytomask.samples.fields import phase_contrast_field
from cytomask.web.security import Session
from cytomask.web.server import address_of, listen, make_server

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
SWITCHES = [
    "--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
]  # fmt: skip
HEIGHT, WIDTH = 260, 352
expect.set_options(timeout=30_000)  # milliseconds: a busy machine takes longer than the usual five seconds
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"


@dataclass
class Served:
    """The page's server over a running stack, which can be stopped and started again on its port."""

    stack: EmulatedStack
    session: Session
    _stop: Callable[[], None]
    _start: Callable[[], None]

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.session.port}"

    @property
    def address(self) -> str:
        return address_of(self.session)

    def stop(self) -> None:
        """Every connection breaks, and new ones are refused."""
        self._stop()

    def start(self) -> None:
        """The same session again."""
        self._start()


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedStack]:
    with emulated_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest.fixture(scope="session")
def served(emulated: EmulatedStack) -> Iterator[Served]:
    account = account_of(Stack.connect("cytomask", emulated.endpoint), emulated.endpoint)
    listener = listen(0)
    session = Session(listener.getsockname()[1])
    running: list[Callable[[], None]] = []

    def start() -> None:
        socket = listener if not running else listen(session.port)
        server = make_server(account, session)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
        thread.start()

        def stop() -> None:
            server.should_exit = server.force_exit = True
            thread.join(15)
            socket.close()

        running.append(stop)

    start()
    yield Served(emulated, session, lambda: running[-1](), start)  # noqa: PLW0108  # the newest one
    running[-1]()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium: `apt-get install chromium`, or name one in CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture
def faults() -> list[str]:
    """What the page complained of: errors of its scripts, refusals of the content security policy."""
    return []


@pytest.fixture
def page(chromium: Browser, served: Served, faults: list[str]) -> Iterator[Page]:
    """A tab with an open session."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, color_scheme="light")
    tab = context.new_page()

    def note(message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text or "TrustedHTML" in message.text:
            faults.append(message.text)

    tab.on("console", note)
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.set_default_timeout(30_000)
    tab.goto(served.address)
    tab.wait_for_selector("#stack:not(:empty)")
    yield tab
    context.close()
    assert faults == []


@pytest.fixture(scope="session")
def field_tiff(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a generated page of cells; return its path."""
    folder = tmp_path_factory.mktemp("images")

    def write(name: str, seed: int = 0, pages: int = 1) -> Path:
        planes = [phase_contrast_field(seed + each, HEIGHT, WIDTH).pixels for each in range(pages)]
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, planes[0] if pages == 1 else np.stack(planes), photometric="minisblack")
        return path

    return write


@pytest.fixture
def picture() -> Callable[[Page, str], None]:
    """Keep a picture of the tab in build/screenshots for people to look at."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)

    def keep(tab: Page, name: str) -> None:
        tab.screenshot(path=SCREENSHOTS / f"{name}.png")

    return keep
