"""A headless browser for tests of pages: Debian's Chromium, driven by Playwright.

Tests without one are skipped, but fail where `CI` is set: there it has to be installed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # What would leave the machine can't; one name of somebody else's was pointed at it.
    "--host-resolver-rules=MAP rebound.test 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
DESKTOP, PHONE = (1280, 800), (390, 844)


@dataclass
class Visit:
    """A page opened, and what happened on it since.

    Attributes:
        page: Playwright's.
        requests: every URL asked for, in order.
        errors: console errors and uncaught exceptions.
    """

    page: Page
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def outside(self) -> list[str]:
        """Requests beyond this machine."""
        here = {"data", "blob", "about", "file"}
        parts = [(url, urlsplit(url)) for url in self.requests]
        return [url for url, part in parts if part.scheme not in here and part.hostname != "127.0.0.1"]


# For one file of tests, not all: while it runs, Playwright has an event loop run in this thread.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        missing = f"there is no {CHROMIUM}: apt-get install chromium"
        if "CI" in os.environ:
            pytest.fail(missing)
        pytest.skip(missing)
    from playwright.sync_api import sync_playwright

    rights = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS, *rights])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Callable[..., Visit]]:
    """Opens a URL or a file in a window of its own: ``visit(where, size=DESKTOP, dark=False)``."""
    contexts = []

    def open_page(where: str | Path, *, size: tuple[int, int] = DESKTOP, dark: bool = False) -> Visit:
        options: dict[str, Any] = {"viewport": {"width": size[0], "height": size[1]}}
        context = chromium.new_context(**options, color_scheme="dark" if dark else "light")
        contexts.append(context)
        page = context.new_page()
        visit = Visit(page)
        page.on("request", lambda request: visit.requests.append(request.url))
        page.on("pageerror", lambda error: visit.errors.append(str(error)))
        page.on("console", lambda said: said.type == "error" and visit.errors.append(said.text))
        page.goto(where.absolute().as_uri() if isinstance(where, Path) else where)
        return visit

    yield open_page
    for context in contexts:
        context.close()
