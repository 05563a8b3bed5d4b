"""A browser, the services that its pages come from, and pages that must make no noise."""

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from calibrated import calibration
from fakes import long_winded_family
from pages import DESKTOP, LIMIT_MS, Opened, measured
from playwright.sync_api import Browser, expect, sync_playwright
from serving import RunningService, serving

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
expect.set_options(timeout=LIMIT_MS)


# Of a module and no more: Playwright keeps an event loop running in this thread until it is stopped, and tests of
# asyncio elsewhere cannot have one.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        reason = "no browser: install Chromium (on Debian: apt install chromium), or Google Chrome"
        if os.environ.get("ANYSIZE_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_OPTIONS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    """Sizes that were measured, on a machine that was calibrated."""
    family = measured(long_winded_family())
    with serving(family, calibration=calibration(family)) as running:
        # A correction would learn that this tiny model is faster than its calibration says.
        running.state.planner._correction.saw = lambda *_, **__: None  # pyright: ignore[reportOptionalMemberAccess]
        yield running


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Opened]]:
    """Opens a service's page; at the end it must have said nothing to the console and spoken to no other host."""
    done: list[Opened] = []

    def open_page(
        service: RunningService,
        *,
        path: str = "",
        width: int = DESKTOP,
        shows: str = "body[data-ready]",
        **context: Any,
    ) -> Opened:
        page = browser.new_context(viewport={"width": width, "height": 800}, **context).new_page()
        done.append(one := Opened(page, service.url))
        one.watch()
        page.goto(service.url + path)
        page.wait_for_selector(shows)
        return one

    yield open_page
    for one in done:
        one.page.context.close()
        one.check()
