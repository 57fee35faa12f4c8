"""What a newcomer sees: what is their doing and what is not, where the thumb is, without jumps and old news."""

from typing import TYPE_CHECKING, Any

import pytest

from simulator.world import user_id
from tests.browser.test_page import answer_with
from tests.browser.town import DemoTown
from tests.browser.visit import PHONE, WIDE, Visit

if TYPE_CHECKING:
    from playwright.async_api import Browser, Route

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

MINE, ROTATION = "Because of you", "Not because of you: feeds rotate"


def item(ping: str, at: int, *, score: float = 1.0, recent: float = 0.0, topic: float = 0.0) -> dict[str, Any]:
    """An item of a feed: `topic` is its session feature, `recent` its term of recent feeds."""
    features = {"trending_now": 0.0, "just_followed": 0.0, "session_creator": 0.0, "session_topic": topic}
    diversity = {"page": 0.0, "recent_feeds": recent}
    why = {"score": score, "boosts": {}, "diversity": diversity, "sources": [], "propensity": 1, "features": features}
    return {"ping_id": ping, "creator_id": f"by-{ping}", "position": at, "reason": "topic", "explain": why}


async def serve(visit: Visit, *feeds: list[dict[str, Any]], degraded: tuple[str, ...] = (), seen: str = "") -> None:
    """The page gets these feeds, the last one for ever; from the second on, `seen` is filtered out."""
    left = list(feeds)

    async def answer(route: "Route") -> None:
        first = len(left) == len(feeds)
        items = left.pop(0) if len(left) > 1 else left[0]
        removed = [] if first or not seen else [{"ping_id": seen, "reason": "seen"}]
        body = {"request_id": "r", "user_id": user_id(0), "model_id": "m", "tick_ms": 0, "items": items}
        await answer_with(route, 200, {**body, "next_cursor": None, "degraded": degraded, "removed": removed})

    await visit.page.route("**/get-feed?*", answer)


async def groups(visit: Visit) -> dict[str, list[str]]:
    """The changes that the panel lists under each reason."""
    found: dict[str, list[str]] = await visit.page.locator("#changes-body .moves").evaluate_all(
        "all => Object.fromEntries(all.map((moves) => [moves.previousSibling.textContent, "
        "[...moves.children].map((line) => line.querySelector('b').textContent)]))"
    )
    return found


BEFORE = [item(ping, at) for at, ping in enumerate("abcd")]


async def test_what_only_rotated_is_not_claimed_as_the_clicks_doing(visit: Visit) -> None:
    after = [item("b", 0), item("d", 1, score=1.3, recent=-0.1, topic=1), item("c", 2, recent=0.4), item("e", 3)]
    await serve(visit, BEFORE, after, seen="a")
    await visit.open_feed(user_id(0))
    await visit.act("a", "Like")
    assert await groups(visit) == {MINE: ["d", "a"], ROTATION: ["e", "c"]}
    assert "4 of" not in str(await visit.page.locator("#said").text_content())


async def test_a_feed_after_no_act_is_nothing_but_rotation(visit: Visit) -> None:
    after = [item("d", 0, score=1.3, topic=1), item("a", 1), item("e", 2)]
    await serve(visit, BEFORE, after, seen="b")
    await visit.open_feed(user_id(0))
    await visit.next()
    assert list(await groups(visit)) == [ROTATION]
    assert await visit.cards.locator(".change.notable").count() == 0


@pytest.mark.parametrize("width", [PHONE, WIDE])
async def test_on_a_phone_a_tap_says_what_it_did_where_the_thumb_is(
    browser: "Browser", demo_town: DemoTown, width: int
) -> None:
    visit = await Visit.begin(browser, demo_town, width=width)
    await serve(visit, BEFORE, BEFORE[1:], seen="a")
    await visit.open_feed(user_id(0))
    toast = visit.page.locator("#toast")
    assert not await toast.is_visible()
    await visit.button("a", "Like").click()
    if width == WIDE:
        await visit.page.get_by_text("you liked it").first.wait_for()
        assert not await toast.is_visible(), "the panel is beside the feed"
        return
    await toast.get_by_text("Liked: a").wait_for()
    box, height = await toast.bounding_box(), visit.page.viewport_size
    assert box
    assert height
    assert box["y"] > height["height"] * 0.8
    await toast.get_by_text("a: you liked it").wait_for()
    assert await visit.overflow() <= 0
    await toast.wait_for(state="hidden")


_FIGURES = """() => {
  const marks = [...document.querySelectorAll("th, .tile, .bar, h1, h2, .panel, .button, .stats div, summary > span")];
  const places = () => marks.map((mark, at) => {
    const { x, y, width } = mark.getBoundingClientRect();
    return [at, mark.tagName, mark.className, Math.round(x), Math.round(y), Math.round(width)].join(" ");
  });
  const figures = { ".tile .big:not(.text)": "8", "td:not(:first-child)": "8 ms", ".stages .n": "8 ms", "#hot .n": "8",
    ".stats dd": "8", ".took": "8 ms", "#tally": "8 in, 8 moved, 8 out" };
  const show = (digits) => {
    for (const [which, text] of Object.entries(figures))
      for (const figure of document.querySelectorAll(which)) figure.textContent = text.replaceAll("8", digits);
    return places();
  };
  const before = show("1");
  const after = show("8,888");
  return before.flatMap((place, at) => (place === after[at] ? [] : [`${place} -> ${after[at]}`]));
}"""


@pytest.mark.parametrize("width", [PHONE, WIDE])
@pytest.mark.parametrize("view", ["system", user_id(1)])
async def test_nothing_jumps_when_a_figure_gets_longer(
    browser: "Browser", demo_town: DemoTown, view: str, width: int
) -> None:
    visit = await Visit.begin(browser, demo_town, width=width, motion=False)
    await visit.open_feed(user_id(1))
    if view == "system":
        await visit.open(view)
        await visit.page.get_by_role("row", name="/get-feed").wait_for()
    assert await visit.page.evaluate(_FIGURES) == []
    assert await visit.overflow() <= 0


async def test_a_degradation_is_forgotten_after_some_minutes(visit: Visit) -> None:
    counted = 5
    await visit.page.clock.install()

    async def metrics(route: "Route") -> None:
        body = f'pingfeed_feed_degraded_total{{part="signals"}} {counted}\n'
        await route.fulfill(status=200, content_type="text/plain", body=body)

    await visit.page.route(f"{visit.town.address('feed')}/metrics", metrics)
    await serve(visit, BEFORE, degraded=("signals",))
    await visit.open_feed(user_id(0))
    await visit.page.locator("#pulse").get_by_text("Feed without what users did lately").wait_for()
    await visit.open("system")
    await visit.page.get_by_text("Ready, with").first.wait_for()
    lacked = visit.page.get_by_text("Some lacked what users did lately")
    assert await lacked.count() == 0, "their age is unknown"
    counted = 6
    await lacked.wait_for()
    await visit.page.clock.fast_forward(6 * 60_000)
    await lacked.wait_for(state="detached")
    await visit.page.locator("#pulse").get_by_text("All services respond").wait_for()


@pytest.mark.parametrize("hash_", ["#system", "#/system", "#main", "#/", "#", "#x"])
async def test_a_hash_that_names_no_user_becomes_none(visit: Visit, hash_: str) -> None:
    asked: list[str] = []
    visit.page.on("request", lambda request: asked.append(request.url) if "/get-feed" in request.url else None)
    await visit.open_feed(user_id(1))
    await visit.page.evaluate("hash => { location.hash = hash; }", hash_)
    if "system" in hash_:
        await visit.page.get_by_role("heading", name="System").wait_for()
    await visit.page.wait_for_timeout(300)
    assert all(f"user_id={user_id(1)}&" in url for url in asked)


async def test_a_user_may_be_called_system(visit: Visit) -> None:
    await visit.open()
    await visit.be("system")
    await visit.page.reload()
    await visit.page.get_by_role("heading", name="Feed of system").wait_for()


_JARGON = (
    "snapshot",
    "packet",
    "fallback",
    "ground truth",
    "held-out",
    "p95",
    "degraded",
    "spool",
    "quantile",
    "lease",
)


async def test_the_page_speaks_a_founders_words(visit: Visit) -> None:
    await visit.open_feed(user_id(1))
    await visit.act((await visit.pings())[0], "Hide")
    await visit.button((await visit.pings())[0], "Why").click()
    drawer = visit.page.get_by_role("dialog").locator("section").filter(has_not=visit.page.locator(".group"))
    words = " ".join(await drawer.all_text_contents())
    await visit.page.keyboard.press("Escape")
    words += str(await visit.page.locator("#feed-view").inner_text())
    await visit.open("system")
    await visit.page.get_by_role("row", name="/get-feed").wait_for()
    for panel in ("#tiles", "#latency", ".system-head", "#hot"):
        words += str(await visit.page.locator(panel).inner_text())
    assert not [word for word in _JARGON if word in words.lower()]
