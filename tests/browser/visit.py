"""One visit to the page: a visitor's actions, what the page shows, and what the browser reports meanwhile."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlsplit

from tests.browser.town import DemoTown

if TYPE_CHECKING:
    from playwright.async_api import Browser, Locator, Page

WIDE: Final = 1280
PHONE: Final = 390
Scheme = Literal["light", "dark"]
_AXE: Final = Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js"
WAIT_MS: Final = 15_000
"""The timeout on a busy machine."""


@dataclass
class Visit:
    """A page under observation."""

    page: "Page"
    town: DemoTown
    complaints: list[str] = field(default_factory=list)
    """Console errors and exceptions."""
    hosts: set[str] = field(default_factory=set)
    """The hosts that received requests."""

    @classmethod
    async def begin(
        cls,
        browser: "Browser",
        town: DemoTown,
        *,
        width: int = WIDE,
        scheme: Scheme = "light",
        motion: bool = True,
        scale: float = 1,
    ) -> "Visit":
        """A new page in its own context, observed from the start."""
        context = await browser.new_context(
            viewport={"width": width, "height": 844 if width < 600 else 900},
            color_scheme=scheme,
            reduced_motion="no-preference" if motion else "reduce",
            device_scale_factor=scale,
        )
        context.set_default_timeout(WAIT_MS)
        # The page's policy admits no other scripts; init scripts are exempt.
        await context.add_init_script(path=_AXE)
        found = cls(await context.new_page(), town)
        found._watch()
        return found

    def _watch(self) -> None:
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))

    async def open(self, path: str = "") -> None:
        """Open the page at `user-0001`, `system`, or without a path for the most active user."""
        await self.page.goto(f"{self.town.address('feed')}/#/{path}")

    async def open_feed(self, user: str = "") -> None:
        """Open a user's feed and wait for it."""
        await self.open(user)
        await self.cards.first.wait_for()

    async def be(self, user: str) -> None:
        """Pick a user as a visitor does, and wait for the feed."""
        who = self.page.get_by_role("combobox", name="You are")
        await who.fill(user)
        await who.press("Enter")
        await self.page.get_by_role("heading", name=f"Feed of {user}").wait_for()
        await self.cards.first.wait_for()

    @property
    def cards(self) -> "Locator":
        """The cards of the feed, first place first."""
        return self.page.locator("#cards > .card")

    async def pings(self) -> list[str]:
        """Their ping ids."""
        found: list[str] = await self.cards.evaluate_all("cards => cards.map(card => card.dataset.ping)")
        return found

    async def followable(self) -> str:
        """The last ping whose creator is not followed yet."""
        follow = self.page.get_by_role("button", name=re.compile("^Follow: "))
        found = await self.cards.filter(has=follow).last.get_attribute("data-ping")
        assert found, "every creator of the feed is followed"
        return str(found)

    def card(self, ping: str) -> "Locator":
        """The card of one ping."""
        return self.page.locator(f'#cards > [data-ping="{ping}"]')

    def button(self, ping: str, name: str) -> "Locator":
        """One of a card's buttons; after the colon, its name continues with the ping's title."""
        return self.card(ping).get_by_role("button", name=re.compile(f"^{name}: "))

    async def act(self, ping: str, name: str) -> None:
        """Press one of a card's buttons and wait for the next feed."""
        await self._next_feed(self.button(ping, name))

    async def next(self) -> None:
        """Press "Next feed" and wait for it."""
        await self._next_feed(self.page.get_by_role("button", name="Next feed"))

    async def _next_feed(self, button: "Locator") -> None:
        async with self.page.expect_response(lambda answer: "/get-feed" in answer.url):
            await button.click()
        await self.page.wait_for_function("() => !document.querySelector('#next[aria-busy]')")

    async def changes(self) -> str:
        """The text of the panel "What changed"."""
        return str(await self.page.locator("#changes-body").text_content())

    async def accessibility(self) -> list[str]:
        """The violations that axe-core finds in the page, once all animations have ended."""
        await self.page.wait_for_function("() => document.getAnimations().every(one => one.playState !== 'running')")
        found: dict[str, Any] = await self.page.evaluate("() => axe.run()")
        return [
            f"{violation['id']}: {node['target']} {node['failureSummary']}"
            for violation in found["violations"]
            for node in violation["nodes"]
        ]

    async def overflow(self) -> int:
        """How many pixels the page is wider than its window."""
        found: int = await self.page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
        return found
