"""The system's Chromium, driven by Playwright."""

import importlib.util
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from playwright.async_api import Browser

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
_FLAGS: Final = (
    "--headless",
    "--no-sandbox",  # it does not work for root, the user in containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def missing() -> str | None:
    """What browser tests lack on this machine, None if nothing."""
    if importlib.util.find_spec("playwright") is None:
        return "playwright is not installed (make test-real installs it)"
    if executable() is None:
        return "there is no Chromium (apt-get install chromium, or name one in CHROMIUM)"
    return None


def executable() -> str | None:
    """The path of Chromium."""
    named = os.environ.get("CHROMIUM")
    return named or next((path for path in map(shutil.which, _NAMES) if path), None)


@asynccontextmanager
async def launched() -> "AsyncIterator[Browser]":
    """A running browser."""
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable(), args=list(_FLAGS))
        try:
            yield browser
        finally:
            await browser.close()
