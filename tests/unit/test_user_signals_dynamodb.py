"""Signals in DynamoDB: other writers, lost answers, limits. What every store promises is in tests/conformance/."""

import random
import string
from typing import Any

import pytest

from pingfeed.adapters._dynamodb.items import MAX_ITEM_BYTES, item_bytes
from pingfeed.adapters.user_signals_dynamodb import TRIES, USERS_AT_ONCE
from pingfeed.adapters.user_signals_dynamodb import DynamodbUserSignals as Store
from pingfeed.core import signals as limits
from pingfeed.core.errors import FormatError, Unavailable
from pingfeed.core.signals import STATE_TTL_MS, Act, UserState, seen_key
from pingfeed.core.whole_state import LIMITS
from tests.conformance.samples import NOON_MS
from tests.unit.fake_dynamodb import FakeDynamodb, Fault, after, done, lost, refused, silent

HIDE = Act("ann", "hide", "p1", NOON_MS)
FOLLOW = Act("ann", "follow", "c1", NOON_MS + 1)


async def state_of(signals: Store, user_id: str = "ann") -> UserState:
    return (await signals.read(user_id, NOON_MS + 10)).state


def deletion(number: int, at_ms: int = NOON_MS) -> Act:
    return Act("", "deleted", f"p{number}", at_ms)


def faster(other: Store, act: Act) -> Fault:
    """The other process applies an act just before ours is written."""
    return after(lambda: other.apply([act]))


async def test_a_post_writes_each_user_once(fake: FakeDynamodb, signals: Store) -> None:
    acts = [Act(f"user-{n % 10}", "seen", f"p{n}", NOON_MS + n) for n in range(500)]
    await signals.apply(acts)
    assert fake.count("put_item") == 10
    assert fake.count("batch_get_item") == 1
    assert len((await state_of(signals, "user-3")).session.seen) == 50


async def test_many_users_are_written_some_at_once(fake: FakeDynamodb, signals: Store) -> None:
    await signals.apply([Act(f"user-{n}", "seen", "p", NOON_MS) for n in range(300)])
    assert fake.count("put_item") == 300
    assert 1 < fake.at_once <= USERS_AT_ONCE


async def test_the_same_acts_again_cost_no_write(fake: FakeDynamodb, signals: Store) -> None:
    for _ in range(3):
        await signals.apply([HIDE, FOLLOW, deletion(1)])
    assert fake.count("put_item") == 3  # ann, the part and the head of the deleted


async def test_a_later_act_that_changes_nothing_extends_the_ttl(fake: FakeDynamodb, signals: Store) -> None:
    await signals.apply([Act("ann", "served", "r1", NOON_MS, ("p1",))])
    await signals.apply([Act("ann", "seen", "p1", NOON_MS + 5000)])
    state = (await signals.read("ann", NOON_MS + 5000 + STATE_TTL_MS - 1)).state
    assert state.session.seen.keys() == {seen_key("p1")}
    assert fake.tables["signals"]["s/ann"]["t"] == {"N": str((NOON_MS + 5000 + STATE_TTL_MS) // 1000)}


async def test_two_processes_do_not_undo_each_others_acts(fake: FakeDynamodb, signals: Store, other: Store) -> None:
    fake.then("put_item", faster(other, FOLLOW))
    await signals.apply([HIDE])
    state = await state_of(signals)
    assert state.hides == {"p1"}
    assert state.following() == {"c1"}
    assert fake.count("put_item") == 3


async def test_a_concurrently_forgotten_user_stays_forgotten(fake: FakeDynamodb, signals: Store, other: Store) -> None:
    async def forgets_and_begins_anew() -> None:
        await other.forget("ann")
        await other.apply([FOLLOW])

    await signals.apply([HIDE])
    fake.then("put_item", after(forgets_and_begins_anew))
    await signals.apply([Act("ann", "seen", "p2", NOON_MS + 2)])
    state = await state_of(signals)
    assert state.hides == set()
    assert state.following() == {"c1"}
    assert state.session.seen.keys() == {seen_key("p2")}


async def test_an_apply_that_loses_every_race_is_unavailable(fake: FakeDynamodb, signals: Store, other: Store) -> None:
    for number in range(TRIES):
        fake.then("put_item", faster(other, Act("ann", "seen", f"p{number}", NOON_MS)), done)
    with pytest.raises(Unavailable, match="too many concurrent writes"):
        await signals.apply([HIDE])
    assert len((await state_of(signals)).session.seen) == TRIES


async def test_a_write_without_a_response_can_be_retried(fake: FakeDynamodb, signals: Store) -> None:
    fake.then("put_item", lost)
    with pytest.raises(Unavailable):
        await signals.apply([HIDE])
    await signals.apply([HIDE])
    assert fake.count("put_item") == 1
    assert (await state_of(signals)).hides == {"p1"}


@pytest.mark.parametrize("operation", ["put_item", "batch_get_item"])
@pytest.mark.parametrize("code", ["ProvisionedThroughputExceededException", "ThrottlingException"])
async def test_a_throttled_apply_is_tried_again(fake: FakeDynamodb, signals: Store, operation: str, code: str) -> None:
    fake.then(operation, *[refused(code)] * 4)
    await signals.apply([HIDE])
    assert (await state_of(signals)).hides == {"p1"}


DENIED, ABSENT = refused("AccessDeniedException"), refused("ResourceNotFoundException")


@pytest.mark.parametrize(
    ("fault", "calls", "said"),
    [
        (refused("ThrottlingException"), TRIES, "ThrottlingException"),
        (silent, 1, "signals"),
        (DENIED, 1, "AccessDeniedException"),
        (ABSENT, 1, "ResourceNotFoundException"),
    ],
)
async def test_only_throttling_is_retried(
    fake: FakeDynamodb, signals: Store, fault: Fault, calls: int, said: str
) -> None:
    """The spool keeps the acts and tries again; a POST must not wait for several time-outs."""
    fake.then("put_item", *[fault] * 50)
    with pytest.raises(Unavailable, match=said):
        await signals.apply([HIDE])
    assert fake.count("put_item") == calls


async def test_one_users_failure_does_not_stop_the_others(fake: FakeDynamodb, signals: Store) -> None:
    fake.then("put_item", silent)
    acts = [Act(f"user-{n}", "seen", "p", NOON_MS) for n in range(5)]
    with pytest.raises(Unavailable):
        await signals.apply(acts)
    assert len(fake.tables["signals"]) == 4
    await signals.apply(acts)
    assert len(fake.tables["signals"]) == 5


async def test_an_item_of_a_future_format_is_left_as_it_is(fake: FakeDynamodb, signals: Store) -> None:
    await signals.apply([HIDE, deletion(1)])
    kept = fake.tables["signals"]["s/ann"]
    changed = b"\x02" + kept["s"]["B"][1:]
    for item in ({**kept, "s": {"B": changed}}, {"k": kept["k"], "state2": {"S": "?"}}):
        fake.tables["signals"]["s/ann"] = item
        for call in (signals.read("ann", NOON_MS), signals.apply([FOLLOW])):
            with pytest.raises(FormatError, match="format"):
                await call
        assert fake.tables["signals"]["s/ann"] == item


async def test_a_damaged_state_is_discarded_and_the_user_starts_over(
    fake: FakeDynamodb, signals: Store, caplog: pytest.LogCaptureFixture
) -> None:
    await signals.apply([HIDE])
    item = fake.tables["signals"]["s/ann"]
    item["s"] = {"B": item["s"]["B"][:-3]}
    assert await state_of(signals) == UserState()
    await signals.apply([FOLLOW])
    assert (await state_of(signals)).following() == {"c1"}
    assert "damaged" in caplog.text


def largest_state(random_ids: random.Random) -> list[Act]:
    """Acts that fill every part to its bound, every id of the longest kind."""
    letters = string.ascii_letters + string.digits + "._:@-"

    def name() -> str:
        return "".join(random_ids.choices(letters, k=128))

    bounds: dict[Any, int] = {**LIMITS}
    bounds |= {"seen": limits.MAX_SEEN, "like": limits.MAX_ENGAGED, "less": limits.MAX_ENGAGED}
    kinds = [kind for kind, count in bounds.items() for _ in range(count)]
    acts = [Act("u" * 128, kind, name(), NOON_MS + random_ids.randrange(10**9)) for kind in kinds]
    page = tuple(name() for _ in range(50 * limits.MAX_SERVED))
    return acts + [
        Act("u" * 128, "served", name(), NOON_MS + n, page[50 * n : 50 * n + 50]) for n in range(limits.MAX_SERVED)
    ]


async def test_the_largest_possible_state_fits_in_an_item(fake: FakeDynamodb, signals: Store) -> None:
    await signals.apply(largest_state(random.Random(1)))
    state = await state_of(signals, "u" * 128)
    assert len(state.follows) == LIMITS["follow"]
    assert len(state.session.seen) == limits.MAX_SEEN
    (item,) = fake.tables["signals"].values()
    assert 380 * 1024 < item_bytes(item) < MAX_ITEM_BYTES


async def test_a_usual_state_fits_in_four_write_units(fake: FakeDynamodb, signals: Store) -> None:
    rng = random.Random(1)
    acts = [Act("ann", "seen", f"ping-{rng.randrange(100_000):05d}", NOON_MS + n * 60_000) for n in range(300)]
    acts += [Act("ann", "follow", f"creator-{n:03d}", NOON_MS + n) for n in range(20)]
    for number in range(12):
        shown = tuple(f"ping-{rng.randrange(100_000):05d}" for _ in range(10))
        acts.append(Act("ann", "served", f"{rng.getrandbits(128):032x}", NOON_MS + number, shown))
    await signals.apply(acts)
    assert item_bytes(fake.tables["signals"]["s/ann"]) < 4 * 1024
