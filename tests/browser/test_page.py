"""The page as visitors see it: their actions show in the next feed and are explained, in every layout and theme."""

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from simulator.world import user_id
from tests.browser.town import DemoTown
from tests.browser.visit import PHONE, WIDE, Scheme, Visit

if TYPE_CHECKING:
    from playwright.async_api import Browser, Route

# The first test of a process creates the world: history, training, services.
pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

LOOKS: list[tuple[int, Scheme]] = [(PHONE, "light"), (PHONE, "dark"), (WIDE, "light"), (WIDE, "dark")]
looks = pytest.mark.parametrize(("width", "scheme"), LOOKS, ids=[f"{scheme}-{width}" for width, scheme in LOOKS])


def with_creators_to_follow(town: DemoTown, width: int, scheme: Scheme) -> str:
    """A user for each look whose first page has creators that the user does not follow yet."""
    for number in range(40 + LOOKS.index((width, scheme)), 80, len(LOOKS)):
        items = town.feed(user_id(number), explain="true")["items"]
        if sum("followed" not in item["explain"]["sources"] for item in items) >= 4:
            return user_id(number)
    raise AssertionError("every user follows all creators of the first page")


@looks
async def test_actions_change_the_next_feed(
    browser: "Browser", demo_town: DemoTown, width: int, scheme: Scheme
) -> None:
    visit = await Visit.begin(browser, demo_town, width=width, scheme=scheme)
    await visit.open_feed()
    await visit.be(with_creators_to_follow(demo_town, width, scheme))
    before = await visit.pings()
    assert len(before) == 10

    await visit.act(before[0], "Hide")
    assert before[0] not in await visit.pings()
    assert "you hid it" in await visit.changes()

    ping = await visit.followable()
    creator = str(await visit.card(ping).locator(".creator").text_content())
    await visit.act(ping, "Follow")
    theirs = visit.cards.filter(has_text=creator)
    best = int(str(await theirs.first.locator(".place").text_content()).removeprefix("Place "))
    assert best < 10, "the creator's pings rise"
    assert f"you just followed {creator}" in await visit.changes()
    await theirs.first.get_by_role("button", name=f"Following: {creator}", pressed=True).wait_for()

    for name, reason in (("Like", "you liked it"), ("Watch", "you watched it"), ("Skip", "you skipped it")):
        ping = (await visit.pings())[1]
        await visit.act(ping, name)
        assert ping not in await visit.pings()
        assert reason in await visit.changes()

    assert await visit.overflow() <= 0
    assert visit.complaints == []
    assert visit.hosts == {urlsplit(demo_town.address(name)).netloc for name in ("feed", "ingest")}


@looks
async def test_a_trending_ping_enters_the_feeds_of_its_country(
    browser: "Browser", demo_town: DemoTown, width: int, scheme: Scheme
) -> None:
    visit = await Visit.begin(browser, demo_town, width=width, scheme=scheme)
    neighbour = await Visit.begin(browser, demo_town, width=width, scheme=scheme)
    for liker, other, ping in pings_that_trending_lifts(demo_town, LOOKS.index((width, scheme))):
        await visit.open_feed(liker)
        await neighbour.open_feed(other)
        if ping in await visit.pings() and ping not in await neighbour.pings():  # feeds rotate
            break
    else:
        raise AssertionError("no ping of a first page is missing on a neighbour's first page")

    await visit.button(ping, "Why").click()
    async with visit.page.expect_response(lambda answer: "/track-events" in answer.url) as sent:
        await visit.page.get_by_role("button", name="40 people like it").click()
    assert (await (await sent.value).json())["accepted"] == 80

    reason = neighbour.card(ping).locator(".change").get_by_text("it is trending in")
    for _ in range(30):  # the trending lists are read every few seconds
        await neighbour.next()
        if await reason.count():
            break
        await neighbour.page.wait_for_timeout(400)
    assert "it is trending in" in await neighbour.changes()
    assert visit.complaints == neighbour.complaints == []


def pings_that_trending_lifts(town: DemoTown, look: int) -> list[tuple[str, str, str]]:
    """(user, neighbour, ping): on the user's first page, and on the neighbour's second or later, best scores first.

    What a user has seen or does not read stays last, however hot it is.
    """
    feeds = {number: town.feed(user_id(number), limit=50, explain="true")["items"] for number in range(20, 80)}
    found = []
    for liker in range(20 + look, 40, len(LOOKS)):
        first_page = {item["ping_id"] for item in feeds[liker][:10]}
        for other in range(40, 80):
            if town.world.country(other) != town.world.country(liker):
                continue
            for item in feeds[other][12:]:
                explained = item["explain"]
                rankable = item["reason"] != "again" and explained["features"]["language_match"]
                if rankable and item["ping_id"] in first_page and not explained["boosts"]["trending_now"]:
                    found.append((explained["score"], (user_id(liker), user_id(other), item["ping_id"])))
    return [one for _, one in sorted(found, reverse=True)[:10]]


@looks
async def test_axe_finds_no_violation(browser: "Browser", demo_town: DemoTown, width: int, scheme: Scheme) -> None:
    visit = await Visit.begin(browser, demo_town, width=width, scheme=scheme, motion=False)
    page = visit.page
    await visit.open_feed(with_creators_to_follow(demo_town, width, scheme))
    assert await visit.accessibility() == []

    await visit.act(await visit.followable(), "Follow")
    for panel in ("Profile and signals", "What changed"):
        details = page.locator("details", has_text=panel)
        if await details.get_attribute("open") is None:
            await details.locator("summary").click()
    assert await visit.accessibility() == [], "with changes and preferences"

    await page.get_by_role("combobox", name="You are").fill("user")
    await page.keyboard.press("ArrowDown")
    assert await visit.accessibility() == [], "with the list of users"
    await page.keyboard.press("Escape")

    await visit.button((await visit.pings())[1], "Why").click()
    await page.locator("#drawer .group").evaluate_all("groups => groups.forEach(group => { group.open = true; })")
    assert await visit.accessibility() == [], "with the drawer"
    await page.keyboard.press("Escape")

    await page.get_by_role("link", name="System").click()
    await page.get_by_role("row", name="/get-feed").wait_for()
    assert await visit.accessibility() == [], "the system"
    assert await visit.overflow() <= 0
    assert visit.complaints == []


async def test_a_card_describes_a_ping_and_its_reason(visit: Visit) -> None:
    await visit.open_feed(user_id(1))
    served = {item["ping_id"]: item for item in visit.town.feed(user_id(1))["items"]}
    ping = next(ping for ping in await visit.pings() if ping in served)
    told = visit.town.world.ping_event(int(ping.removeprefix("ping-")))
    card = visit.card(ping)
    assert await card.locator(".creator").text_content() == told["creator_id"]
    assert sorted(await card.locator(".topic").all_text_contents()) == sorted(told["topics"])
    assert " ago" in str(await card.locator(".meta").text_content())
    assert await card.locator(".reason").text_content()


async def test_the_drawer_shows_the_score_and_every_feature(visit: Visit) -> None:
    await visit.open_feed(user_id(2))
    ping = (await visit.pings())[0]
    await visit.act(ping, "Hide")
    ping = (await visit.pings())[0]
    await visit.button(ping, "Why").click()
    drawer = visit.page.get_by_role("dialog")
    words = str(await drawer.text_content())
    assert all(name in words for name in visit.town.features.names)
    assert ping in words
    total = str(await drawer.locator("dd.total").text_content()).replace("\u2212", "-")
    parts = await drawer.locator(".sum dd:not(.total)").all_text_contents()
    assert sum(float(part.replace("\u2212", "-")) for part in parts) == pytest.approx(float(total), abs=0.002)
    assert "you hid it" in words, "removed pings and their reasons"
    await visit.page.get_by_role("button", name="Close").click()
    await drawer.wait_for(state="hidden")


async def test_without_auto_refresh_the_feed_is_refreshed_by_hand(visit: Visit) -> None:
    await visit.open_feed(user_id(3))
    await visit.page.get_by_role("switch", name="Auto-refresh").click()
    before = await visit.pings()
    for ping, name in ((before[0], "Hide"), (before[1], "Skip")):
        async with visit.page.expect_response(lambda answer: "/track-events" in answer.url):
            await visit.button(ping, name).click()
    await visit.page.wait_for_timeout(1000)
    assert await visit.pings() == before
    await visit.next()
    assert not {before[0], before[1]} & set(await visit.pings())


async def test_an_unknown_user_gets_a_feed(visit: Visit) -> None:
    await visit.open_feed()
    await visit.be("unknown.user")
    assert len(await visit.pings()) == 10
    await visit.page.get_by_text("Not a simulated user").wait_for()


async def test_further_pages_never_repeat_a_ping(visit: Visit) -> None:
    await visit.open_feed(user_id(4))
    await visit.page.get_by_role("button", name="Show more").click()
    await visit.cards.nth(19).wait_for()
    pings = await visit.pings()
    assert len(set(pings)) == len(pings) == 20
    await visit.button(pings[15], "Why").click()
    await visit.page.get_by_role("dialog").get_by_text("At place 16").wait_for()


async def test_the_page_works_by_keyboard_alone(visit: Visit) -> None:
    page = visit.page
    await visit.open_feed(user_id(5))
    await page.keyboard.press("Tab")
    assert await focused(visit) == "Skip to the content"
    order: list[str] = []
    while not (order and order[-1].startswith("Hide: ")):
        await page.keyboard.press("Tab")
        order.append(await focused(visit))
        assert await page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") == "solid", order[-1]
        assert len(order) < 40
    names = [name.split(":")[0].removesuffix("ing") for name in order]
    assert names.index("Next feed") < names.index("Watch") < names.index("Like") < names.index("Follow")

    hidden = (await visit.pings())[0]
    async with page.expect_response(lambda answer: "/get-feed" in answer.url):
        await page.keyboard.press("Enter")
    await visit.card(hidden).wait_for(state="detached")
    assert await page.evaluate("() => document.activeElement.closest('.card').querySelector('.place').textContent") == (
        "Place 1"
    ), "the focus stays where the hidden ping was"
    await page.wait_for_function("() => document.querySelector('#said').textContent.includes('you hid it')")

    while not (await focused(visit)).startswith("Why: "):
        await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await page.get_by_role("dialog").wait_for()
    await page.keyboard.press("Escape")
    await page.get_by_role("dialog").wait_for(state="hidden")
    assert (await focused(visit)).startswith("Why: "), "focus returns to the button that opened it"


async def focused(visit: Visit) -> str:
    """The accessible name of the focused element."""
    found: str = await visit.page.evaluate(
        "() => document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent.trim()"
    )
    return found


async def test_the_picker_finds_people_by_topic(visit: Visit) -> None:
    await visit.open()
    who = visit.page.get_by_role("combobox", name="You are")
    await visit.cards.first.wait_for()
    await who.fill("brazil music")
    options = visit.page.get_by_role("option")
    first = str(await options.first.text_content())
    assert "Brazil" in first
    await who.press("ArrowDown")
    await who.press("ArrowDown")
    second = str(await options.nth(1).locator(".who").text_content()).removesuffix("Brazil")
    assert await options.nth(1).get_attribute("aria-selected") == "true"
    await who.press("Enter")
    await visit.page.get_by_role("heading", name=f"Feed of {second}").wait_for()
    assert await options.count() == 0 or not await options.first.is_visible()


async def test_cards_do_not_animate_with_reduced_motion(browser: "Browser", demo_town: DemoTown) -> None:
    for number, motion in ((6, True), (7, False)):
        visit = await Visit.begin(browser, demo_town, motion=motion)
        await visit.page.add_init_script(
            "const animate = Element.prototype.animate; window.animated = 0;"
            "Element.prototype.animate = function (...how) { window.animated += 1; return animate.apply(this, how); };"
        )
        await visit.open_feed(user_id(number))
        await visit.act((await visit.pings())[0], "Hide")
        assert (await visit.page.evaluate("() => window.animated") > 0) == motion
        await visit.page.locator("#ghosts > *").first.wait_for(state="detached")


async def test_the_system_view_shows_rates_latency_tick_model_and_trending(visit: Visit) -> None:
    town, page = visit.town, visit.page
    loved = town.feed(user_id(8))["items"][0]["ping_id"]
    await visit.open("system")
    await page.get_by_role("row", name="/get-feed").wait_for()
    # Between two readings of /metrics.
    town.send(*({"event_type": "like", "user_id": f"lover-{n}", "ping_id": loved, "country": "US"} for n in range(90)))
    await page.wait_for_function("() => Number(document.querySelector('.tile .big').textContent) > 0")
    feed = town.feed(user_id(8))
    await page.get_by_text(feed["model_id"]).wait_for()
    row = page.get_by_role("row", name="/get-feed")
    cells = await row.get_by_role("cell").all_text_contents()
    assert all(cell.endswith("ms") for cell in cells[2:])
    percentiles = [float(cell.removesuffix(" ms")) for cell in cells[2:]]
    assert percentiles == sorted(percentiles)
    await page.get_by_role("combobox", name="Country of the trending list").select_option("US")
    title = (await card_of(visit, loved))["title"]
    await page.locator("#hot li").filter(has_text=title).first.wait_for()
    await page.get_by_text("Ready, with artifacts, candidates, model").wait_for()


async def card_of(visit: Visit, ping: str) -> dict[str, Any]:
    answer = await visit.page.request.get(f"{visit.town.address('feed')}/demo/pings?ids={ping}")
    found: dict[str, Any] = (await answer.json())["pings"][0]
    return found


async def test_the_system_view_names_degraded_parts(visit: Visit) -> None:
    body = {"status": "ready", "degraded": ["trending"], "detail": {"trending": "the disk is gone"}}
    await visit.page.route("**/readyz", lambda route: answer_with(route, 200, body))
    await visit.open("system")
    await visit.page.get_by_text("feed: trending").wait_for()
    await visit.page.get_by_text("the disk is gone").first.wait_for()


async def answer_with(route: "Route", status: int, body: Any) -> None:
    headers = {"Access-Control-Allow-Origin": "*"}
    await route.fulfill(status=status, headers=headers, content_type="application/json", body=json.dumps(body))


_NO_RETRY_BY_ITSELF = """
const later = window.setTimeout;
window.setTimeout = (call, ms, ...rest) => (call.name === "retry" ? 0 : later(call, ms, ...rest));
"""


async def test_events_wait_while_ingest_is_down_and_arrive_on_try_again(visit: Visit, demo_town: DemoTown) -> None:
    await visit.page.add_init_script(_NO_RETRY_BY_ITSELF)
    await visit.open_feed(user_id(9))
    liked = (await visit.pings())[0]
    demo_town.ingest.stop()
    try:
        await visit.button(liked, "Like").click()
        banner = visit.page.get_by_role("alert")
        await banner.get_by_text("Ingest does not answer. 1 event waits here").wait_for()
        assert await visit.pings(), "the feed stays readable"
        assert await visit.accessibility() == []
    finally:
        demo_town.ingest = demo_town.start("ingest")
    await banner.get_by_role("button", name="Try again").click()
    await banner.wait_for(state="hidden")
    await visit.card(liked).wait_for(state="detached")


async def test_a_feed_outage_is_shown_until_it_recovers(visit: Visit, demo_town: DemoTown) -> None:
    await visit.open_feed(user_id(9))
    before = await visit.pings()
    demo_town.feed_service.stop()
    try:
        await visit.page.get_by_role("button", name="Next feed").click()
        banner = visit.page.get_by_role("alert")
        await banner.get_by_text("The feed does not answer. What you see is from before.").wait_for()
        assert await visit.pings() == before
        assert await visit.accessibility() == []
    finally:
        demo_town.feed_service = demo_town.start("feed")
    await banner.wait_for(state="hidden")  # the page retries by itself


async def test_without_operator_rights_the_page_hides_scores(visit: Visit) -> None:
    async def forbid(route: "Route") -> None:
        body = {"error": {"code": "forbidden", "message": "explain needs an operator key", "field": None}}
        if "explain=true" in route.request.url:
            await answer_with(route, 403, body)
        else:
            await route.continue_()

    await visit.page.route("**/get-feed?*", forbid)
    await visit.open_feed(user_id(1))
    await visit.button((await visit.pings())[0], "Why").click()
    await visit.page.get_by_text("Only operators can see scores and features.").wait_for()


async def test_with_api_keys_the_page_asks_for_one(visit: Visit) -> None:
    keys: list[str | None] = []

    async def guard(route: "Route") -> None:
        keys.append(await route.request.header_value("x-api-key"))
        if keys[-1] == "sesame":
            await route.continue_()
        else:
            body = {"error": {"code": "unauthenticated", "message": "send an API key", "field": None}}
            await answer_with(route, 401, body)

    await visit.page.route("**/demo/**", guard)
    await visit.open(user_id(1))
    await visit.page.get_by_label("API key").fill("sesame")
    await visit.page.get_by_role("button", name="Use it").click()
    await visit.cards.first.wait_for()
    assert await visit.page.get_by_role("alert").is_hidden()
    assert keys[0] is None


async def test_without_simulated_users_the_visitor_types_a_user_id(visit: Visit) -> None:
    await visit.page.route("**/demo/people", lambda route: answer_with(route, 200, {"people": []}))
    await visit.open()
    await visit.page.get_by_role("heading", name="Choose a user").wait_for()
    await visit.be("any.user")
    assert len(await visit.pings()) == 10
    assert await visit.page.get_by_role("button", name="Switch to a random user").is_hidden()
