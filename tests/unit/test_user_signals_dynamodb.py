"""Signals in DynamoDB: other writers, lost answers, limits. What every store promises is in tests/conformance/."""

import asyncio
import random
import string
from collections.abc import AsyncIterator, Iterator

import pytest

from pingfeed.adapters._dynamodb.deleted import HEAD, PART
from pingfeed.adapters._dynamodb.items import MAX_ITEM_BYTES, item_bytes
from pingfeed.adapters.user_signals_dynamodb import TRIES, USERS_AT_ONCE, DynamodbUserSignals
from pingfeed.core.errors import FormatError, Unavailable
from pingfeed.core.retry import Backoff
from pingfeed.core.signals import (
    DELETED_TTL_MS,
    MAX_BLOCKS,
    MAX_DELETED,
    MAX_ENGAGED,
    MAX_FOLLOWS,
    MAX_HIDES,
    MAX_SEEN,
    MAX_SERVED,
    STATE_TTL_MS,
    Act,
    ActKind,
    UserState,
)
from tests.conformance.samples import NOON_MS
from tests.unit.fake_dynamodb import FakeDynamodb, Fault, Item, after, done, dynamodb, lost, refused, silent

AT_ONCE = Backoff(first_s=0)
HIDE = Act("ann", "hide", "p1", NOON_MS)
FOLLOW = Act("ann", "follow", "c1", NOON_MS + 1)


@pytest.fixture
def fake() -> Iterator[FakeDynamodb]:
    with dynamodb("signals") as fake:
        yield fake


@pytest.fixture
async def signals(fake: FakeDynamodb) -> AsyncIterator[DynamodbUserSignals]:
    signals = DynamodbUserSignals("dynamodb://signals", backoff=AT_ONCE)
    yield signals
    await signals.close()


@pytest.fixture
async def other(fake: FakeDynamodb) -> AsyncIterator[DynamodbUserSignals]:
    """Another process."""
    signals = DynamodbUserSignals("dynamodb://signals", backoff=AT_ONCE)
    yield signals
    await signals.close()


async def state_of(signals: DynamodbUserSignals, user_id: str = "ann") -> UserState:
    return (await signals.read(user_id, NOON_MS + 10)).state


def deletion(number: int, at_ms: int = NOON_MS) -> Act:
    return Act("", "deleted", f"p{number}", at_ms)


def faster(other: DynamodbUserSignals, act: Act) -> Fault:
    """The other process applies an act just before ours is written."""
    return after(lambda: other.apply([act]))


async def test_a_post_writes_each_user_once(fake: FakeDynamodb, signals: DynamodbUserSignals) -> None:
    acts = [Act(f"user-{n % 10}", "seen", f"p{n}", NOON_MS + n) for n in range(500)]
    await signals.apply(acts)
    assert fake.count("put_item") == 10
    assert fake.count("batch_get_item") == 1
    assert len((await state_of(signals, "user-3")).seen) == 50


async def test_many_users_are_written_some_at_once(fake: FakeDynamodb, signals: DynamodbUserSignals) -> None:
    await signals.apply([Act(f"user-{n}", "seen", "p", NOON_MS) for n in range(300)])
    assert fake.count("put_item") == 300
    assert 1 < fake.at_once <= USERS_AT_ONCE


async def test_the_same_acts_again_cost_no_write(fake: FakeDynamodb, signals: DynamodbUserSignals) -> None:
    for _ in range(3):
        await signals.apply([HIDE, FOLLOW, deletion(1)])
    assert fake.count("put_item") == 3  # ann, the part and the head of the deleted


async def test_a_later_act_that_changes_nothing_still_lengthens_the_life(
    fake: FakeDynamodb, signals: DynamodbUserSignals
) -> None:
    await signals.apply([Act("ann", "served", "r1", NOON_MS, ("p1",))])
    await signals.apply([Act("ann", "seen", "p1", NOON_MS + 5000)])
    state = (await signals.read("ann", NOON_MS + 5000 + STATE_TTL_MS - 1)).state
    assert state.seen.keys() == {"p1"}
    assert fake.tables["signals"]["s/ann"]["t"] == {"N": str((NOON_MS + 5000 + STATE_TTL_MS) // 1000)}


async def test_two_processes_do_not_undo_each_others_acts(
    fake: FakeDynamodb, signals: DynamodbUserSignals, other: DynamodbUserSignals
) -> None:
    fake.then("put_item", faster(other, FOLLOW))
    await signals.apply([HIDE])
    state = await state_of(signals)
    assert state.hides.keys() == {"p1"}
    assert state.following() == {"c1"}
    assert fake.count("put_item") == 3


async def test_a_user_forgotten_in_between_does_not_come_back(
    fake: FakeDynamodb, signals: DynamodbUserSignals, other: DynamodbUserSignals
) -> None:
    async def forgets_and_begins_anew() -> None:
        await other.forget("ann")
        await other.apply([FOLLOW])

    await signals.apply([HIDE])
    fake.then("put_item", after(forgets_and_begins_anew))
    await signals.apply([Act("ann", "seen", "p2", NOON_MS + 2)])
    state = await state_of(signals)
    assert state.hides == {}
    assert state.following() == {"c1"}
    assert state.seen.keys() == {"p2"}


async def test_writers_that_are_always_faster_make_it_unavailable(
    fake: FakeDynamodb, signals: DynamodbUserSignals, other: DynamodbUserSignals
) -> None:
    for number in range(TRIES):
        fake.then("put_item", faster(other, Act("ann", "seen", f"p{number}", NOON_MS)), done)
    with pytest.raises(Unavailable, match="too many concurrent writes"):
        await signals.apply([HIDE])
    assert len((await state_of(signals)).seen) == TRIES


async def test_a_write_whose_answer_was_lost_may_be_made_again(
    fake: FakeDynamodb, signals: DynamodbUserSignals
) -> None:
    fake.then("put_item", lost)
    with pytest.raises(Unavailable):
        await signals.apply([HIDE])
    await signals.apply([HIDE])
    assert fake.count("put_item") == 1
    assert (await state_of(signals)).hides.keys() == {"p1"}


@pytest.mark.parametrize("operation", ["put_item", "batch_get_item"])
@pytest.mark.parametrize("code", ["ProvisionedThroughputExceededException", "ThrottlingException"])
async def test_a_throttled_apply_is_tried_again(
    fake: FakeDynamodb, signals: DynamodbUserSignals, operation: str, code: str
) -> None:
    fake.then(operation, *[refused(code)] * 4)
    await signals.apply([HIDE])
    assert (await state_of(signals)).hides.keys() == {"p1"}


async def test_an_apply_that_stays_throttled_is_given_up(fake: FakeDynamodb, signals: DynamodbUserSignals) -> None:
    fake.then("put_item", *[refused("ThrottlingException")] * 50)
    with pytest.raises(Unavailable, match="ThrottlingException"):
        await signals.apply([HIDE])
    assert fake.count("put_item") == TRIES


@pytest.mark.parametrize("fault", [silent, refused("AccessDeniedException"), refused("ResourceNotFoundException")])
async def test_no_answer_and_a_refusal_are_told_at_once(
    fake: FakeDynamodb, signals: DynamodbUserSignals, fault: Fault
) -> None:
    """The spool keeps the acts and tries again; a POST must not wait for several time-outs."""
    fake.then("put_item", fault)
    with pytest.raises(Unavailable):
        await signals.apply([HIDE])
    assert fake.count("put_item") == 1


async def test_one_users_failure_does_not_stop_the_others(fake: FakeDynamodb, signals: DynamodbUserSignals) -> None:
    fake.then("put_item", silent)
    acts = [Act(f"user-{n}", "seen", "p", NOON_MS) for n in range(5)]
    with pytest.raises(Unavailable):
        await signals.apply(acts)
    assert len(fake.tables["signals"]) == 4
    await signals.apply(acts)
    assert len(fake.tables["signals"]) == 5


async def test_an_absent_table_is_unavailable_until_it_is_made(
    fake: FakeDynamodb, signals: DynamodbUserSignals
) -> None:
    table = fake.tables.pop("signals")
    calls = (signals.check(), signals.read("ann", NOON_MS), signals.apply([HIDE, deletion(1)]), signals.forget("ann"))
    for call in calls:
        with pytest.raises(Unavailable, match="signals is not available: ResourceNotFoundException"):
            await call
    fake.tables["signals"] = table
    await signals.apply([HIDE])
    assert (await state_of(signals)).hides.keys() == {"p1"}


async def test_an_item_of_a_future_format_is_left_as_it_is(fake: FakeDynamodb, signals: DynamodbUserSignals) -> None:
    await signals.apply([HIDE, deletion(1)])
    kept = fake.tables["signals"]["s/ann"]
    sealed = b"\x02" + kept["s"]["B"][1:]
    for item in ({**kept, "s": {"B": sealed}}, {"k": kept["k"], "t": kept["t"], "state2": {"S": "?"}}):
        fake.tables["signals"]["s/ann"] = item
        for call in (signals.read("ann", NOON_MS), signals.apply([FOLLOW])):
            with pytest.raises(FormatError, match="format"):
                await call
        assert fake.tables["signals"]["s/ann"] == item


async def test_a_damaged_state_is_lost_and_the_user_begins_anew(
    fake: FakeDynamodb, signals: DynamodbUserSignals, caplog: pytest.LogCaptureFixture
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

    def at_ms() -> int:
        return NOON_MS + random_ids.randrange(10**9)

    bounds: dict[ActKind, int] = {"follow": MAX_FOLLOWS, "block": MAX_BLOCKS, "hide": MAX_HIDES, "seen": MAX_SEEN}
    acts = [Act("u" * 128, kind, name(), at_ms()) for kind, count in bounds.items() for _ in range(count)]
    acts += [Act("u" * 128, "engaged", name(), at_ms()) for _ in range(MAX_ENGAGED)]
    page = tuple(name() for _ in range(50 * MAX_SERVED))
    return acts + [Act("u" * 128, "served", name(), NOON_MS + n, page[50 * n : 50 * n + 50]) for n in range(MAX_SERVED)]


async def test_the_largest_state_there_can_be_fits_in_an_item(fake: FakeDynamodb, signals: DynamodbUserSignals) -> None:
    await signals.apply(largest_state(random.Random(1)))
    state = await state_of(signals, "u" * 128)
    assert len(state.follows) + len(state.blocks) + len(state.hides) == MAX_FOLLOWS + MAX_BLOCKS + MAX_HIDES
    assert (len(state.seen), len(state.engaged), len(state.served)) == (MAX_SEEN, MAX_ENGAGED, MAX_SERVED)
    assert len(state.encode()) > MAX_ITEM_BYTES
    (item,) = fake.tables["signals"].values()
    assert 390 * 1024 < item_bytes(item) < 396 * 1024 < MAX_ITEM_BYTES


async def test_a_usual_state_costs_what_the_adapter_says(fake: FakeDynamodb, signals: DynamodbUserSignals) -> None:
    dice = random.Random(1)
    acts = [Act("ann", "seen", f"ping-{dice.randrange(100_000):05d}", NOON_MS + n * 60_000) for n in range(300)]
    acts += [Act("ann", "follow", f"creator-{n:03d}", NOON_MS + n) for n in range(20)]
    for number in range(12):
        shown = tuple(f"ping-{dice.randrange(100_000):05d}" for _ in range(10))
        acts.append(Act("ann", "served", f"{dice.getrandbits(128):032x}", NOON_MS + number, shown))
    await signals.apply(acts)
    assert item_bytes(fake.tables["signals"]["s/ann"]) < 4 * 1024


async def deleted(signals: DynamodbUserSignals, now_ms: int = NOON_MS) -> set[str]:
    return set((await signals.read("ann", now_ms)).deleted)


async def test_deletions_that_are_known_are_not_read_again(
    fake: FakeDynamodb, signals: DynamodbUserSignals, other: DynamodbUserSignals
) -> None:
    await signals.apply([deletion(n) for n in range(2500)])
    assert len(await deleted(other)) == 2500
    fake.calls.clear()
    for _ in range(3):
        assert len(await deleted(other)) == 2500
    keys = [key["k"]["S"] for _, call in fake.calls for key in call["RequestItems"]["signals"]["Keys"]]
    assert keys == ["s/ann", HEAD] * 3
    await signals.apply([deletion(2500)])
    fake.calls.clear()
    assert len(await deleted(other)) == 2501
    sizes = [len(call["RequestItems"]["signals"]["Keys"]) for _, call in fake.calls]
    assert sizes == [2, 1]


async def test_the_head_of_the_deleted_stays_small(fake: FakeDynamodb, signals: DynamodbUserSignals) -> None:
    """It is read with every feed, and four KiB are one unit."""
    for start in range(0, 3 * MAX_DELETED, 500):
        await signals.apply([deletion(n) for n in range(start, start + 500)])
    assert await deleted(signals) == {f"p{n}" for n in range(2 * MAX_DELETED, 3 * MAX_DELETED)}
    assert item_bytes(fake.tables["signals"][HEAD]) < 200


async def test_two_processes_do_not_undo_each_others_deletions(
    fake: FakeDynamodb, signals: DynamodbUserSignals, other: DynamodbUserSignals
) -> None:
    for number in range(0, 10, 2):
        fake.then("put_item", faster(other, deletion(number + 1)))
        await signals.apply([deletion(number)])
        assert await deleted(signals) == await deleted(other) == {f"p{n}" for n in range(number + 2)}


async def test_a_reader_may_fall_behind_and_catch_up_while_another_writes(
    fake: FakeDynamodb, signals: DynamodbUserSignals, other: DynamodbUserSignals
) -> None:
    async def write(start: int) -> None:
        for number in range(start, start + 40):
            await other.apply([deletion(number)])

    async def read() -> None:
        known: set[str] = set()
        for _ in range(60):
            now = await deleted(signals)
            assert now >= known  # what one read has seen, no later one misses
            known = now

    await asyncio.gather(write(0), write(100), read(), read())
    assert await deleted(signals) == await deleted(other) == {f"p{n}" for n in (*range(40), *range(100, 140))}


async def test_a_deletion_that_was_cut_off_is_not_seen_and_may_be_made_again(
    fake: FakeDynamodb, signals: DynamodbUserSignals, other: DynamodbUserSignals
) -> None:
    await signals.apply([deletion(0)])
    fake.then("put_item", done, silent)  # its part is written, the head is not
    with pytest.raises(Unavailable):
        await signals.apply([deletion(1)])
    assert await deleted(other) == {"p0"}
    await signals.apply([deletion(1)])
    assert await deleted(other) == {"p0", "p1"}


async def test_parts_that_ttl_removed_are_over(
    fake: FakeDynamodb, signals: DynamodbUserSignals, other: DynamodbUserSignals
) -> None:
    later_ms = NOON_MS + DELETED_TTL_MS
    await signals.apply([deletion(n) for n in range(PART)])
    await signals.apply([deletion(PART, later_ms)])
    gone = [key for key, item in fake.tables["signals"].items() if int(item["t"]["N"]) <= later_ms // 1000]
    assert len(gone) == 1
    for key in gone:
        del fake.tables["signals"][key]
    assert await deleted(other, later_ms) == {f"p{PART}"}
    await other.apply([deletion(PART + 1, later_ms)])
    assert await deleted(signals, later_ms) == {f"p{PART}", f"p{PART + 1}"}


async def test_a_list_of_a_future_format_is_left_as_it_is(fake: FakeDynamodb, signals: DynamodbUserSignals) -> None:
    item: Item = {"k": {"S": HEAD}, "d": {"B": b"\x02"}, "t": {"N": "1"}}
    fake.tables["signals"][HEAD] = item
    for call in (signals.read("ann", NOON_MS), signals.apply([deletion(1)])):
        with pytest.raises(FormatError):
            await call
    assert fake.tables["signals"] == {HEAD: item}
