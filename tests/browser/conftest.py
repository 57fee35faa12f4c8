"""One small world for all browser tests; a browser and a page for each.

Playwright's synchronous API would leave a running event loop behind for other tests; hence the asynchronous one.
"""

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest

from tests.browser import chromium
from tests.browser.town import DemoTown
from tests.browser.visit import Visit
from tests.servers import lacking

if TYPE_CHECKING:
    from playwright.async_api import Browser


@pytest.fixture(scope="session")
def demo_town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoTown]:
    if lack := chromium.missing():
        lacking(lack)
    found = DemoTown(tmp_path_factory.mktemp("town") / "home")
    yield found
    found.close()


@pytest.fixture
async def browser(demo_town: DemoTown) -> "AsyncIterator[Browser]":
    async with chromium.launched() as found:
        yield found


@pytest.fixture
async def visit(browser: "Browser", demo_town: DemoTown) -> AsyncIterator[Visit]:
    """A visit to the page in the wide, light layout with motion."""
    found = await Visit.begin(browser, demo_town)
    yield found
    await found.page.context.close()
