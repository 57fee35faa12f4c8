"""A feed's budget counts from the first byte, and a feed that would come too late is cheap, then a 503."""

from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from feed_api.admission import CAUTIOUS_S, Admission
from pingfeed.core.errors import Unavailable
from tests.unit.feed_world import FULL_PACKET, LISTS, World, catalogue, feed_world, packet_bytes, ping_ids, shuffled

BUDGET_S = 2.0


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with feed_world(tmp_path, catalogue(200), LISTS, packet=FULL_PACKET) as world:
        yield world


@pytest.mark.parametrize("waited_s", [None, 0.0, 0.7, 1.3])
@pytest.mark.parametrize("slow", ["candidates", "signals", "nothing"])
@pytest.mark.parametrize("takes_s", [0.0, 1.0, 1.9, 5.0])
async def test_no_answer_over_the_budget_hides_it(
    world: World, waited_s: float | None, slow: str, takes_s: float
) -> None:
    """Signals are slow twice: when read, and when the served act is applied."""
    world.time.waited_s = waited_s
    came = world.time.seconds - (waited_s or 0.0)

    def pass_time() -> None:
        world.time.seconds += takes_s

    if slow != "nothing":
        getattr(world, slow).before = pass_time
    degraded = (await world.feed())["degraded"]
    took_s = world.time.seconds - came
    if took_s > BUDGET_S:
        assert "deadline" in degraded
    if took_s < BUDGET_S * 0.4:
        assert degraded == ["model"]


async def test_a_feed_that_waited_long_is_in_packet_order_without_hidden_pings(world: World) -> None:
    order = shuffled(100)
    world.give("u", packet_bytes(order))
    await world.act("hide", f"p{order[0]:03d}")
    world.time.waited_s = BUDGET_S * 0.5
    first, second = await world.pages(2, explain=True)
    assert first["degraded"] == ["model", "overload"]
    assert ping_ids(first) == [f"p{i:03d}" for i in order[1:11]]
    assert first["items"][0]["explain"]["score"] is None
    assert second["next_cursor"]
    assert (await world.served_row(first["request_id"]))["served_pings"] == ping_ids(first)
    assert await world.metric('pingfeed_feed_degraded_total{part="overload"}') == 2


async def test_a_cheap_feed_refills_no_more_than_the_page(world: World) -> None:
    world.time.waited_s = BUDGET_S * 0.5
    feed = await world.feed("unknown")
    assert (len(feed["items"]), bool(feed["next_cursor"])) == (10, True)
    assert await world.metric("pingfeed_feed_candidates_total") == 11


async def test_a_feed_that_waited_too_long_is_a_503_before_any_work(world: World) -> None:
    world.time.waited_s = BUDGET_S * 1.6
    world.candidates.down = "must not be asked"
    answers = [await world.get(user_id="u") for _ in range(30)]
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.headers["Retry-After"] for answer in answers} == {"1", "2", "3"}
    assert answers[0].json()["error"]["code"] == "unavailable"
    assert await world.metric('pingfeed_feed_degraded_total{part="candidates"}') == 0
    assert await world.metric("pingfeed_feed_shed_total") == 30
    assert (await world.client.get("/healthz")).status_code == 200
    assert (await world.client.get("/readyz")).status_code == 200


class Machine:
    """Clocks that a test moves, and how often a feed was shed."""

    def __init__(self) -> None:
        self.now_s = self.cpu_s = 0.0
        self.shed = 0
        self.admission = Admission(0.05, monotonic=lambda: self.now_s, cpu=lambda: self.cpu_s, shed=self.count)

    def count(self) -> None:
        self.shed += 1

    def serve(self, feeds: int, cpu_s: float) -> set[bool]:
        """Feeds one after the other; whether they were cheap."""
        kinds = set()
        for _ in range(feeds):
            self.cpu_s += 1.0  # other work while no feed is under way, which is not a feed's
            with self.admission.enter(None) as cheap:
                kinds.add(cheap)
                self.cpu_s += cpu_s
        return kinds


def test_feeds_under_way_count_by_the_cpu_time_that_a_feed_takes() -> None:
    machine = Machine()
    assert machine.serve(200, cpu_s=0.0049) == {False}
    with ExitStack() as under_way:
        kinds = [under_way.enter_context(machine.admission.enter(None)) for _ in range(11)]
        assert kinds == [False] * 5 + [True] * 6
        with pytest.raises(Unavailable):
            machine.admission.enter(None).__enter__()
        assert machine.shed == 1
    assert machine.serve(10, cpu_s=0.0049) == {False}


@pytest.mark.parametrize("busy", [True, False])
def test_after_a_503_of_a_busy_process_feeds_are_cheap_sooner_for_a_while(busy: bool) -> None:
    machine = Machine()
    with ExitStack() as under_way:
        for _ in range(100 * busy):
            with suppress(Unavailable):
                under_way.enter_context(machine.admission.enter(None))
        with suppress(Unavailable):
            under_way.enter_context(machine.admission.enter(-0.1))
    assert machine.shed
    for passed_s, cheap in ((CAUTIOUS_S / 2, busy), (CAUTIOUS_S, False)):
        machine.now_s += passed_s
        assert machine.serve(1, cpu_s=0.0) == {False}  # not delayed
        with machine.admission.enter(machine.now_s - 0.01) as is_cheap:
            assert is_cheap == cheap


def test_a_feed_alone_is_not_cheap_however_much_it_costs() -> None:
    assert Machine().serve(100, cpu_s=1.0) == {False}
