"""`make screenshots`: the real page over a small real world with live traffic.

python -m tests.browser.screenshots FOLDER writes page-light.png, page-dark.png, page-phone.png and page-system.png.
"""

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulator.world import user_id
from tests.browser import chromium
from tests.browser.town import DemoTown
from tests.browser.visit import PHONE, Visit

if TYPE_CHECKING:
    from playwright.async_api import Browser

_TRAFFIC_MS = 45_000
"""How long the system view collects its rates and percentiles of the last minute."""


async def _feed(browser: "Browser", town: DemoTown, file: Path, user: int, act: str | None, **look: Any) -> None:
    """A user's feed after a follow and another action; without one, with the reasons of a ping."""
    visit = await Visit.begin(browser, town, **look)
    page = visit.page
    await visit.open_feed(user_id(user))
    await visit.act(await visit.followable(), "Follow")
    ping = (await visit.pings())[1]
    await (visit.act(ping, act) if act else visit.button(ping, "Why").click())
    # Wait until nothing moves, at the top of the page with no button under the pointer.
    await page.mouse.move(0, 0)
    await page.evaluate("() => window.scrollTo(0, 0)")
    await page.locator("#ghosts > *").first.wait_for(state="detached")
    await page.wait_for_function("() => document.getAnimations().every(one => one.playState !== 'running')")
    await page.evaluate("() => document.activeElement.blur()")
    await page.screenshot(path=file)


async def _system(browser: "Browser", town: DemoTown, file: Path) -> None:
    """The second view during live traffic."""
    visit = await Visit.begin(browser, town)
    await visit.open("system")
    await visit.page.wait_for_timeout(_TRAFFIC_MS)
    await visit.page.screenshot(path=file, full_page=True)


async def _screenshots(town: DemoTown, folder: Path) -> None:
    async with chromium.launched() as browser:
        await _feed(browser, town, folder / "page-light.png", 12, "Hide")
        await _feed(browser, town, folder / "page-dark.png", 7, None, scheme="dark")
        await _feed(browser, town, folder / "page-phone.png", 33, "Like", width=PHONE, scale=2)
        await _system(browser, town, folder / "page-system.png")


def main(folder: Path) -> None:
    """Build the world, start live traffic, take the screenshots."""
    if lack := chromium.missing():
        sys.exit(lack)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        town = DemoTown(Path(home) / "home")
        try:
            town.play(rate=40)
            asyncio.run(_screenshots(town, folder))
        finally:
            town.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
