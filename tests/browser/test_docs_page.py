"""/docs in a browser: the page works within its policy and without another host."""

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.browser.town import DemoTown
from tests.browser.visit import Visit

if TYPE_CHECKING:
    from playwright.async_api import Browser

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]


@pytest.mark.parametrize(("service", "operation"), [("ingest", "Send one event"), ("feed", "A page of a user's feed")])
async def test_the_docs_show_every_operation_and_try_one(
    browser: "Browser", demo_town: DemoTown, service: str, operation: str
) -> None:
    visit = await Visit.begin(browser, demo_town)
    address = demo_town.address(service)
    await visit.page.goto(f"{address}/docs")
    await visit.page.get_by_text(operation, exact=True).wait_for()
    await visit.page.get_by_text("Liveness", exact=True).click()
    await visit.page.get_by_role("button", name="Try it out").click()
    await visit.page.get_by_role("button", name="Execute").click()
    await visit.page.locator(".live-responses-table").get_by_text('"ok"').wait_for()
    assert visit.complaints == []
    assert visit.hosts <= {urlsplit(address).netloc, ""}
