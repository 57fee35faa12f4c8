"""A feed's budget counts from the first byte, and a feed that would come too late is cheap, then a 503."""

from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from feed_api.admission import Admission
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
    world.time.waited_s = BUDGET_S * 1.1
    world.candidates.down = "must not be asked"
    answers = [await world.get(user_id="u") for _ in range(30)]
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.headers["Retry-After"] for answer in answers} == {"1", "2", "3"}
    assert answers[0].json()["error"]["code"] == "unavailable"
    assert await world.metric('pingfeed_feed_degraded_total{part="candidates"}') == 0
    assert await world.metric("pingfeed_feed_shed_total") == 30
    assert (await world.client.get("/healthz")).status_code == 200
    assert (await world.client.get("/readyz")).status_code == 200


class Cpu:
    """CPU time that passes by 5 ms for each feed."""

    used_s = 0.0

    def __call__(self) -> float:
        return self.used_s


def test_feeds_under_way_count_by_the_cpu_time_that_a_feed_takes() -> None:
    cpu, shed = Cpu(), []
    admission = Admission(0.05, cpu=cpu, shed=lambda: shed.append(1))
    for _ in range(200):  # learn
        with admission.enter(0.0) as cheap:
            assert not cheap
            cpu.used_s += 0.0049
    with ExitStack() as under_way:
        kinds = [under_way.enter_context(admission.enter(0.0)) for _ in range(8)]
        assert kinds == [False] * 5 + [True] * 3
        with pytest.raises(Unavailable):
            admission.enter(0.0).__enter__()
        assert shed == [1]
    with admission.enter(0.0) as cheap:
        assert not cheap


def test_a_feed_alone_is_not_cheap_however_much_it_costs() -> None:
    cpu = Cpu()
    admission = Admission(0.05, cpu=cpu)
    for _ in range(100):
        with admission.enter(0.0):
            cpu.used_s += 1.0
    with admission.enter(0.0) as cheap:
        assert not cheap
