"""One visit of the page: what a person does there, what they see, and what the browser complains of meanwhile."""

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
"""How long something may take on a busy machine; nothing waits longer than it needs."""


@dataclass
class Visit:
    """A page that is watched."""

    page: "Page"
    town: DemoTown
    complaints: list[str] = field(default_factory=list)
    """Console errors and exceptions."""
    hosts: set[str] = field(default_factory=set)
    """Whom the page asked for anything."""

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
        """A new page, watched from its beginning, in a context of its own."""
        context = await browser.new_context(
            viewport={"width": width, "height": 844 if width < 600 else 900},
            color_scheme=scheme,
            reduced_motion="no-preference" if motion else "reduce",
            device_scale_factor=scale,
        )
        context.set_default_timeout(WAIT_MS)
        # As an init script it needs no leave from the page's policy, which lets no other script in.
        await context.add_init_script(path=_AXE)
        found = cls(await context.new_page(), town)
        found._watch()
        return found

    def _watch(self) -> None:
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))

    async def open(self, path: str = "") -> None:
        """Open the page: `user-0001`, `system`, or nothing for whoever is first."""
        await self.page.goto(f"{self.town.address('feed')}/#/{path}")

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
        """The lowest ping whose creator is not followed yet."""
        follow = self.page.get_by_role("button", name=re.compile("^Follow: "))
        found = await self.cards.filter(has=follow).last.get_attribute("data-ping")
        assert found, "every creator of the feed is followed"
        return str(found)

    def card(self, ping: str) -> "Locator":
        """The card of one ping."""
        return self.page.locator(f'#cards > [data-ping="{ping}"]')

    def button(self, ping: str, name: str) -> "Locator":
        """One of a card's buttons; their names go on with what they are about, which may hold any word."""
        return self.card(ping).get_by_role("button", name=re.compile(f"^{name}: "))

    async def act(self, ping: str, name: str) -> None:
        """Press one of a card's buttons and wait for the feed that comes after."""
        async with self.page.expect_response(lambda answer: "/get-feed" in answer.url):
            await self.button(ping, name).click()
        await self.page.wait_for_function("() => !document.querySelector('#next[aria-busy]')")

    async def next(self) -> None:
        """Ask for the next feed, and wait for it."""
        async with self.page.expect_response(lambda answer: "/get-feed" in answer.url):
            await self.page.get_by_role("button", name="Next feed").click()
        await self.page.wait_for_function("() => !document.querySelector('#next[aria-busy]')")

    async def changes(self) -> str:
        """What the page says has changed."""
        return str(await self.page.locator("#changes-body").text_content())

    async def accessibility(self) -> list[str]:
        """What axe-core finds wrong with the page as it is, once nothing moves any more."""
        await self.page.wait_for_function("() => document.getAnimations().every(one => one.playState !== 'running')")
        found: dict[str, Any] = await self.page.evaluate("() => axe.run()")
        return [
            f"{violation['id']}: {node['target']} {node['failureSummary']}"
            for violation in found["violations"]
            for node in violation["nodes"]
        ]

    async def overflow(self) -> int:
        """By how many pixels the page is wider than its window."""
        found: int = await self.page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
        return found
