"""`make screenshots`: pictures of the real page over a small real world, with people playing meanwhile.

python -m tests.browser.screenshots FOLDER writes page-light.png, page-dark.png, page-phone.png and page-system.png.
"""

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from simulator.world import user_id
from tests.browser import chromium
from tests.browser.town import DemoTown
from tests.browser.visit import PHONE, WIDE, Visit

if TYPE_CHECKING:
    from playwright.async_api import Browser

_PLAYED_MS = 45_000
"""How long the system is watched before its picture: rates and percentiles of a minute want a minute."""


async def _settled(visit: Visit) -> None:
    """At the top of the page, once nothing moves, with no button under the pointer."""
    await visit.page.mouse.move(0, 0)
    await visit.page.evaluate("() => window.scrollTo(0, 0)")
    await visit.page.locator("#ghosts > *").first.wait_for(state="detached")
    await visit.page.wait_for_function("() => document.getAnimations().every(one => one.playState !== 'running')")
    await visit.page.evaluate("() => document.activeElement.blur()")


async def _light(browser: "Browser", town: DemoTown, folder: Path) -> None:
    """A feed after a hide and a follow."""
    visit = await Visit.begin(browser, town)
    await visit.open(user_id(12))
    await visit.cards.first.wait_for()
    await visit.act((await visit.pings())[1], "Hide")
    await visit.act(await visit.followable(), "Follow")
    await _settled(visit)
    await visit.page.screenshot(path=folder / "page-light.png")


async def _dark(browser: "Browser", town: DemoTown, folder: Path) -> None:
    """Why a ping is where it is."""
    visit = await Visit.begin(browser, town, scheme="dark")
    await visit.open(user_id(7))
    await visit.cards.first.wait_for()
    await visit.act(await visit.followable(), "Follow")
    await visit.button((await visit.pings())[1], "Why").click()
    await _settled(visit)
    await visit.page.screenshot(path=folder / "page-dark.png")


async def _phone(browser: "Browser", town: DemoTown, folder: Path) -> None:
    """A feed after a like, on a phone."""
    visit = await Visit.begin(browser, town, width=PHONE, scale=2)
    await visit.open(user_id(33))
    await visit.cards.first.wait_for()
    await visit.act(await visit.followable(), "Follow")
    await visit.act((await visit.pings())[1], "Like")
    await _settled(visit)
    await visit.page.screenshot(path=folder / "page-phone.png")


async def _system(browser: "Browser", town: DemoTown, folder: Path) -> None:
    """The second view while people play."""
    visit = await Visit.begin(browser, town, width=WIDE)
    await visit.open("system")
    await visit.page.wait_for_timeout(_PLAYED_MS)
    await visit.page.screenshot(path=folder / "page-system.png", full_page=True)


async def _pictures(town: DemoTown, folder: Path) -> None:
    async with chromium.launched() as browser:
        for picture in (_light, _dark, _phone, _system):
            await picture(browser, town, folder)


def main(folder: Path) -> None:
    """Build the world, let its people play, take the pictures."""
    if lack := chromium.missing():
        sys.exit(lack)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        town = DemoTown(Path(home) / "home")
        try:
            town.play(rate=40)
            asyncio.run(_pictures(town, folder))
        finally:
            town.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
