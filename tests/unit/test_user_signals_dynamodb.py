"""Signals in DynamoDB: folds, other writers, lost answers. What every store promises is in tests/conformance/."""

import asyncio
import random
import string
import uuid
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from pingfeed.adapters._dynamodb import relations
from pingfeed.adapters._dynamodb.head import HEAD_BYTES
from pingfeed.adapters._dynamodb.items import Item, compress, item_bytes
from pingfeed.adapters._dynamodb.session import OLDER
from pingfeed.adapters.user_signals_dynamodb import TRIES, USERS_AT_ONCE
from pingfeed.adapters.user_signals_dynamodb import DynamodbUserSignals as Store
from pingfeed.adapters.user_signals_sqlite import SqliteUserSignals
from pingfeed.core import signals as limits
from pingfeed.core.clock import DAY_MS
from pingfeed.core.errors import FormatError, Unavailable
from pingfeed.core.signals import STATE_TTL_MS, Act, ActKind, Profile, Session, UserState, seen_key
from pingfeed.ports import UserSignals
from tests.conformance.samples import NOON_MS
from tests.prove import figure, rounds
from tests.unit.fake_dynamodb import FakeDynamodb, Fault, after, done, lost, refused, silent
from tests.unit.whole_state import WholeState

HIDE = Act("ann", "hide", "p1", NOON_MS)
FOLLOW = Act("ann", "follow", "c1", NOON_MS + 1)
HEAD, SESSION, SEEN = "s/ann", "s/ann/session", "s/ann/seen"


async def state_of(signals: UserSignals, user_id: str = "ann") -> UserState:
    return (await signals.read(user_id, NOON_MS + 10)).state


def deletion(number: int, at_ms: int = NOON_MS) -> Act:
    return Act("", "deleted", f"p{number}", at_ms)


def name(number: int) -> str:
    """A UUID."""
    return str(uuid.UUID(int=number << 64 | number, version=4))


def served(number: int) -> Act:
    """A page of ten pings: five of them fill a head."""
    return Act("ann", "served", name(number), NOON_MS + number, tuple(name(10 * number + n) for n in range(10)))


def seen(count: int, user: str = "ann", at_ms: int = NOON_MS) -> list[Act]:
    return [Act(user, "seen", f"p{n}", at_ms) for n in range(count)]


def follows(count: int) -> list[Act]:
    return [Act("ann", "follow", name(n), NOON_MS + n, event_id=name(n)) for n in range(count)]


async def fold(store: Store) -> None:
    """So many acts that they go straight into the other items, with those in the head."""
    await store.apply(seen(1000))


def faster(other: Store, *acts: Act) -> Fault:
    """The other process applies acts just before ours are written."""
    return after(lambda: other.apply(acts))


async def test_a_post_appends_each_users_acts_once_without_reading(fake: FakeDynamodb, signals: Store) -> None:
    acts = [Act(f"user-{n % 10}", "seen", f"p{n}", NOON_MS + n) for n in range(500)]
    await signals.apply(acts)
    assert [name for name, _ in fake.calls] == ["update_item"] * 10
    assert len((await state_of(signals, "user-3")).session.seen) == 50


async def test_many_users_are_written_some_at_once(fake: FakeDynamodb, signals: Store) -> None:
    await signals.apply([Act(f"user-{n}", "seen", "p", NOON_MS) for n in range(300)])
    assert fake.count("update_item") == 300
    assert 1 < fake.at_once <= USERS_AT_ONCE


async def test_a_head_stays_under_one_write_unit_and_nothing_is_lost(fake: FakeDynamodb, signals: Store) -> None:
    user = str(uuid.uuid4())
    for number in range(100):
        shown = tuple(name(10 * number + n) for n in range(10))
        acts = [Act(user, "served", name(number), NOON_MS + number * 1000, shown)]
        acts += [Act(user, "seen", ping, NOON_MS + number * 1000) for ping in shown[:4]]
        await signals.apply(acts)
        assert item_bytes(fake.tables["signals"][f"s/{user}"]) <= HEAD_BYTES
    session = (await signals.read(user, NOON_MS + 100_000)).state.session
    assert session.seen.keys() == {seen_key(name(10 * number + n)) for number in range(100) for n in range(4)}
    assert [page.request_id for page in session.served] == [name(number) for number in range(88, 100)]
    assert fake.count("put_item") < 60


async def test_a_known_deletion_costs_no_write(fake: FakeDynamodb, signals: Store) -> None:
    for _ in range(3):
        await signals.apply([deletion(1)])
    assert fake.count("put_item") == 2  # the part and the head of the deleted


async def test_a_later_act_that_changes_nothing_extends_the_ttl(fake: FakeDynamodb, signals: Store) -> None:
    await signals.apply([Act("ann", "served", "r1", NOON_MS, ("p1",))])
    await signals.apply([Act("ann", "seen", "p1", NOON_MS + 5000)])
    state = (await signals.read("ann", NOON_MS + 5000 + STATE_TTL_MS - 1)).state
    assert state.session.seen.keys() == {seen_key("p1")}
    await signals.apply(seen(1000, at_ms=NOON_MS + 6000))
    assert fake.tables["signals"][SESSION]["t"] == {"N": str((NOON_MS + 6000 + STATE_TTL_MS) // 1000)}
    assert int(fake.tables["signals"][HEAD]["t"]["N"]) > (NOON_MS + 6000 + STATE_TTL_MS) // 1000


@pytest.mark.parametrize("folded", [False, True])
async def test_what_a_user_decided_has_no_ttl(fake: FakeDynamodb, signals: Store, folded: bool) -> None:
    await signals.apply([FOLLOW, *(follows(40) if folded else [])])
    for _ in range(2):
        await signals.apply([Act("ann", "seen", "p1", NOON_MS + 5000)])
        expires = {key: int(item["t"]["N"]) for key, item in fake.tables["signals"].items() if "t" in item}
        assert all(year > 250_000_000_000 for key, year in expires.items() if key == HEAD)
        assert set(expires) == ({HEAD, SESSION} if folded else {HEAD})
    assert ("s/ann/1.0" in fake.tables["signals"]) == folded
    state = (await signals.read("ann", NOON_MS + 400 * DAY_MS)).state
    assert "c1" in state.following()
    assert state.session == Session()


@pytest.mark.parametrize("removed", [[SESSION], [SEEN], [SESSION, SEEN]])
async def test_decisions_outlive_a_session_that_ttl_has_removed(
    fake: FakeDynamodb, signals: Store, other: Store, removed: list[str]
) -> None:
    await signals.mark_complete()
    await signals.apply([HIDE, *follows(50), *seen(500)])
    await state_of(other)
    for key in removed:
        del fake.tables["signals"][key]
    back_ms = NOON_MS + 40 * DAY_MS
    for number, store in enumerate((signals, other, signals)):
        read = await store.read("ann", back_ms)
        assert (read.complete, read.state.hides, len(read.state.following())) == (True, {"p1"}, 50)
        await store.apply([Act("ann", "seen", f"q{number}-{n}", back_ms) for n in range(250)])
        state = (await store.read("ann", back_ms)).state
        assert {seen_key(f"q{number}-{n}") for n in range(250)} <= state.session.seen.keys()
    for store in (signals, other):
        state = (await store.read("ann", back_ms)).state
        expected = {seen_key(f"q{number}-{n}") for number in range(3) for n in range(250)}
        assert {key for key, at_ms in state.session.seen.items() if at_ms >= back_ms - 40_000} == expected


async def test_few_decisions_stay_in_the_head_and_cost_no_second_call(fake: FakeDynamodb, signals: Store) -> None:
    await signals.apply([HIDE, FOLLOW])
    await fold(signals)
    await state_of(signals)
    fake.calls.clear()
    assert "p1" in (await state_of(signals)).hides
    assert "s/ann/1.0" not in fake.tables["signals"]
    assert [name for name, _ in fake.calls if name == "batch_get_item"] == ["batch_get_item"]


async def test_only_users_with_relations_need_a_second_call_and_once_only(
    fake: FakeDynamodb, signals: Store, other: Store
) -> None:
    await signals.mark_complete()
    await signals.apply(follows(100))
    await other.is_complete()
    for calls in (2, 1, 1):
        fake.calls.clear()
        assert len((await state_of(other)).following()) == 100
        assert fake.count("batch_get_item") == calls
    await signals.apply([HIDE])
    fake.calls.clear()
    assert "p1" in (await state_of(other)).hides
    assert fake.count("batch_get_item") == 1


async def test_two_processes_that_fold_do_not_undo_each_others_acts(
    fake: FakeDynamodb, signals: Store, other: Store
) -> None:
    for number in range(4):
        fake.then("put_item", *[done] * number, faster(other, FOLLOW, *seen(20)))
        await signals.apply([HIDE, *follows(50)[1:], *seen(1000)[10:]])
        await other.apply([Act("ann", "block", "c9", NOON_MS), *seen(400)])
        for store in (signals, other):
            state = await state_of(store)
            assert (state.hides, state.blocks, len(state.following())) == ({"p1"}, {"c9"}, 50)
            assert state.session.seen.keys() == {seen_key(f"p{n}") for n in range(1000)}
        await signals.forget("ann")


async def test_a_concurrently_forgotten_user_stays_forgotten(fake: FakeDynamodb, signals: Store, other: Store) -> None:
    async def forgets_and_begins_anew() -> None:
        await other.forget("ann")
        await other.apply([FOLLOW])

    for number in range(3):
        await signals.apply([HIDE, *follows(50)[1:], *seen(300)])
        fake.then("put_item", *[done] * number, after(forgets_and_begins_anew))
        await signals.apply(
            [Act("ann", "block", "c9", NOON_MS), *(Act("ann", "seen", f"q{n}", NOON_MS) for n in range(250))]
        )
        state = await state_of(signals)
        assert state.hides == set()
        assert state.blocks == {"c9"}
        assert state.following() == {"c1"}
        assert state.session.seen.keys() == {seen_key(f"q{n}") for n in range(250)}
        await signals.forget("ann")


async def test_forgetting_removes_every_item(
    fake: FakeDynamodb, signals: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pingfeed.adapters._dynamodb.fold.PART_BYTES", 2000)
    await signals.apply([*follows(300), *seen(500)])
    assert len(fake.tables["signals"]) > 10
    await signals.forget("ann")
    assert not fake.tables["signals"]


@pytest.mark.parametrize("number", [None, 0, 1, 2])
async def test_a_fold_of_a_user_who_is_forgotten_meanwhile_leaves_no_item(
    fake: FakeDynamodb, signals: Store, other: Store, number: int | None
) -> None:
    """It begins with a head that this process has read before."""
    await signals.apply([*map(served, range(2)), *follows(12)])
    await state_of(signals)
    assert fake.tables["signals"].keys() == {HEAD}
    if number is None:
        await other.forget("ann")
    else:
        fake.then("put_item", *[done] * number, after(lambda: other.forget("ann")))
    await signals.apply([served(7)])
    assert [page.request_id for page in (await state_of(signals)).session.served] == [name(7)]
    assert fake.tables["signals"].keys() == {HEAD}


async def test_a_user_forgotten_at_any_moment_of_a_fold_leaves_nothing_of_before(
    fake: FakeDynamodb, signals: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pingfeed.adapters._dynamodb.fold.PART_BYTES", 600)
    items = fake.tables["signals"]

    async def forget(turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        await other.forget("ann")

    for seed in range(rounds(60, 1000)):
        rng = random.Random(seed)
        await signals.apply([served(0), *follows(rng.randrange(40))])
        acts = [*follows(rng.randrange(80)), Act("ann", "block", "c9", NOON_MS)]
        await asyncio.gather(signals.apply(acts), forget(rng.randrange(60)))
        await signals.apply([served(1)])
        assert [page.request_id for page in (await state_of(signals)).session.served] == [name(1)], f"seed {seed}"
        assert {bytes(item["i"]["B"]) for item in items.values()} == {bytes(items[HEAD]["i"]["B"])}, f"seed {seed}"
        await signals.forget("ann")
        assert not items


async def test_forgetting_removes_what_a_killed_fold_has_begun(
    fake: FakeDynamodb, signals: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pingfeed.adapters._dynamodb.fold.PART_BYTES", 2000)
    for before, operation, number in ((0, "put_item", 3), (40, "put_item", 2), (100, "delete_item", 1)):
        await signals.apply([HIDE, *follows(before)])
        fake.then(operation, *[done] * number, silent)
        with pytest.raises(Unavailable):
            await signals.apply(follows(400))
        await signals.forget("ann")
        assert not fake.tables["signals"]


async def test_an_apply_that_loses_every_race_is_unavailable(fake: FakeDynamodb, signals: Store, other: Store) -> None:
    acts = [Act("ann", "seen", f"q{number}", NOON_MS) for number in range(TRIES)]
    fake.then("put_item", faster(other, acts[0]))
    for act in acts[1:]:
        fake.then("put_item", faster(other, act), done, done)
    with pytest.raises(Unavailable, match="too many concurrent writes"):
        await signals.apply([HIDE, *seen(500)])
    assert len((await state_of(signals)).session.seen) == 500 + TRIES


@pytest.mark.parametrize("at", range(4))
async def test_a_write_without_a_response_can_be_retried(fake: FakeDynamodb, signals: Store, at: int) -> None:
    acts = [HIDE, *follows(50), *seen(500)]
    fake.then("put_item", *[done] * at, lost)
    with pytest.raises(Unavailable):
        await signals.apply(acts)
    await signals.apply(acts)
    state = await state_of(signals)
    assert (state.hides, len(state.following()), len(state.session.seen)) == ({"p1"}, 50, 500)


@pytest.mark.parametrize("operation", ["put_item", "update_item", "batch_get_item"])
@pytest.mark.parametrize("code", ["ProvisionedThroughputExceededException", "ThrottlingException"])
async def test_a_throttled_apply_is_tried_again(fake: FakeDynamodb, signals: Store, operation: str, code: str) -> None:
    fake.then(operation, *[refused(code)] * 4)
    await signals.apply([HIDE])
    await signals.apply(seen(500))
    state = await state_of(signals)
    assert (state.hides, len(state.session.seen)) == ({"p1"}, 500)


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
    fake.then("update_item", *[fault] * 50)
    with pytest.raises(Unavailable, match=said):
        await signals.apply([HIDE])
    assert fake.count("update_item") == calls


async def test_one_users_failure_does_not_stop_the_others(fake: FakeDynamodb, signals: Store) -> None:
    fake.then("update_item", silent)
    acts = [Act(f"user-{n}", "seen", "p", NOON_MS) for n in range(5)]
    with pytest.raises(Unavailable):
        await signals.apply(acts)
    assert len(fake.tables["signals"]) == 4
    await signals.apply(acts)
    assert len(fake.tables["signals"]) == 5


async def test_an_item_of_a_future_format_is_left_as_it_is(fake: FakeDynamodb, signals: Store, other: Store) -> None:
    """A later version keeps earlier ones out by an attribute `s`."""
    await signals.apply([HIDE, *follows(50), *seen(500)])
    items = fake.tables["signals"]
    kept = dict(items)
    heads: list[dict[str, Any]] = [{"k": {"S": HEAD}, "s": {"B": b"\x02?"}}, {"k": {"S": HEAD}, "s": {"S": "?"}}]
    others = [{**items[key], "d": {"B": b"\x03" + items[key]["d"]["B"][1:]}} for key in (SESSION, SEEN, "s/ann/1.0")]
    for item in (*heads, *others):
        items[item["k"]["S"]] = dict(item)
        changed = dict(items)
        for call in (other.read("ann", NOON_MS), signals.apply([FOLLOW, *follows(60), *seen(600)])):
            with pytest.raises((FormatError, TypeError)):
                await call
        assert items[item["k"]["S"]] == changed[item["k"]["S"]]
        items.clear()
        items.update(kept)


def harmed(item: Item, attribute: str = "d") -> dict[str, Any]:
    data = bytearray(item[attribute]["B"])
    data[-3] ^= 1
    return {**item, attribute: {"B": bytes(data)}}


@pytest.mark.parametrize("key", [SESSION, SEEN])
async def test_damage_in_the_session_is_named_and_costs_no_block(
    fake: FakeDynamodb, signals: Store, other: Store, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    await signals.mark_complete()
    await signals.apply([HIDE, *follows(50), *seen(500)])
    fake.tables["signals"][key] = harmed(fake.tables["signals"][key])
    read = await other.read("ann", NOON_MS)
    assert (read.complete, read.state.hides, len(read.state.following())) == (False, {"p1"}, 50)
    assert "damaged" in caplog.text
    await other.apply(seen(600))
    read = await other.read("ann", NOON_MS)
    assert (read.complete, read.state.hides, len(read.state.session.seen)) == (True, {"p1"}, 600)


async def test_items_that_do_not_belong_together_are_named_and_the_next_fold_mends_them(
    fake: FakeDynamodb, signals: Store, other: Store
) -> None:
    await signals.mark_complete()
    await signals.apply([HIDE, *seen(500)])
    item = fake.tables["signals"][SESSION]
    fake.tables["signals"][SESSION] = {**item, "i": {"B": b"123456"}}
    read = await other.read("ann", NOON_MS)
    assert (read.complete, read.state.hides) == (False, {"p1"})
    await other.apply(seen(600))
    for store in (signals, other):
        read = await store.read("ann", NOON_MS)
        assert (read.complete, read.state.hides, len(read.state.session.seen)) == (True, {"p1"}, 600)


@pytest.mark.parametrize("where", ["head", "relations", "missing"])
async def test_a_user_whose_decisions_are_damaged_is_incomplete_until_they_are_rebuilt(
    fake: FakeDynamodb, signals: Store, other: Store, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pingfeed.adapters.user_signals_dynamodb.system_clock", lambda: NOON_MS)
    monkeypatch.setattr("pingfeed.adapters._dynamodb.fold.system_clock", lambda: NOON_MS + 1)
    await signals.mark_complete()
    items = fake.tables["signals"]
    if where == "head":
        await signals.apply([HIDE])
        items[HEAD] = {**items[HEAD], "h": {"L": [harmed({"d": items[HEAD]["h"]["L"][0]})["d"]]}}
    else:
        await signals.apply([HIDE, *follows(50)])
        items["s/ann/1.0"] = harmed(items["s/ann/1.0"])
        if where == "missing":
            del items["s/ann/1.0"]
    block = Act("ann", "block", "c9", NOON_MS)
    for acts in ([], [block], follows(60)[55:], seen(500)):
        await other.apply(acts)
        for store in (signals, other):
            read = await store.read("ann", NOON_MS)
            assert (read.complete, "c9" in read.state.blocks) == (False, bool(acts) or "c9" in read.state.blocks)
    assert (await other.read("bob", NOON_MS)).complete
    monkeypatch.setattr("pingfeed.adapters.user_signals_dynamodb.system_clock", lambda: NOON_MS + 2)
    await signals.apply([HIDE, *follows(60)])
    await signals.mark_complete()
    for store in (signals, other):
        read = await store.read("ann", NOON_MS)
        assert (read.complete, read.state.hides, read.state.blocks) == (True, {"p1"}, {"c9"})
        assert len(read.state.following()) == 60


def former(*acts: Act) -> dict[str, Any]:
    """Ann's item as it was before heads."""
    state = WholeState()
    for act in acts:
        state.apply(act)
    return {"k": {"S": HEAD}, "s": {"B": compress(state.encode())}, "v": {"B": b"12345678"}}


@pytest.mark.parametrize("more", [0, 600])
async def test_the_format_before_is_taken_over(fake: FakeDynamodb, signals: Store, other: Store, more: int) -> None:
    said = Act("ann", "profile", "", NOON_MS, profile=Profile({"country": (NOON_MS, "DE")}))
    unfollow, like = Act("ann", "unfollow", "c2", NOON_MS + 2), Act("ann", "like", "p7", NOON_MS + 2)
    acts = [HIDE, FOLLOW, unfollow, said, like, served(1), *seen(300 + more), *follows(more)]
    fake.tables["signals"][HEAD] = former(*acts)
    before = await state_of(other)
    assert (before.hides, "c1" in before.following(), before.follows["c2"]) == ({"p1"}, True, -(NOON_MS + 2))
    assert (before.profile.get("country"), before.session.interactions(NOON_MS)) == ("DE", ["p7"])
    await signals.apply([Act("ann", "block", "c9", NOON_MS + 3)])
    assert "s" not in fake.tables["signals"][HEAD]
    for store in (signals, other):
        state = await state_of(store)
        assert state.blocks == {"c9"}
        assert (state.hides, state.follows, state.profile) == (before.hides, before.follows, before.profile)
        assert state.session == before.session
    assert len(before.session.seen) == 300 + more


async def test_a_damaged_item_of_the_format_before_is_named_until_it_is_rebuilt(
    fake: FakeDynamodb, signals: Store
) -> None:
    await signals.mark_complete()
    fake.tables["signals"][HEAD] = harmed(former(HIDE), "s")
    for _ in range(2):
        assert not (await signals.read("ann", NOON_MS)).complete
        await signals.apply([FOLLOW])
    assert (await state_of(signals)).following() == {"c1"}


def largest_state(random_ids: random.Random) -> list[Act]:
    """Acts that fill every part to its bound, every id of the longest kind."""
    letters = string.ascii_letters + string.digits + "._:@-"

    def name() -> str:
        return "".join(random_ids.choices(letters, k=128))

    bounds: dict[Any, int] = {**limits.LIMITS}
    bounds |= {"seen": limits.MAX_SEEN, "like": limits.MAX_ENGAGED, "less": limits.MAX_ENGAGED}
    kinds = [kind for kind, count in bounds.items() for _ in range(count)]
    acts = [Act("u" * 128, kind, name(), NOON_MS + random_ids.randrange(10**9)) for kind in kinds]
    page = tuple(name() for _ in range(50 * limits.MAX_SERVED))
    return acts + [
        Act("u" * 128, "served", name(), NOON_MS + n, page[50 * n : 50 * n + 50]) for n in range(limits.MAX_SERVED)
    ]


async def test_the_largest_possible_state_fits_in_its_items(fake: FakeDynamodb, signals: Store) -> None:
    await signals.apply(largest_state(random.Random(1)))
    state = await state_of(signals, "u" * 128)
    parts = (state.follows, state.blocks, state.hides, state.mutes)
    assert [len(part) for part in parts] == list(limits.LIMITS.values())
    assert len(state.session.seen) >= OLDER
    sizes = {key: item_bytes(item) for key, item in fake.tables["signals"].items()}
    assert sizes.pop(f"s/{'u' * 128}") <= HEAD_BYTES
    assert max(sizes.values()) <= 100 * 1024


def test_relations_of_one_user_have_hashes_of_their_own() -> None:
    ann, bob = (relations.Relations(user, {}) for user in ("ann", "bob"))
    assert ann.hash_of("block:c1") != bob.hash_of("block:c1")
    ann.apply([Act("ann", "block", "c1", NOON_MS), Act("ann", "unblock", "c2", NOON_MS)], limited=True)
    state = ann.state()
    assert ("c1" in state.blocks, "c2" in state.blocks, "c1" in state.hides) == (True, False, False)
    assert (state.blocks, state.freed, len(state.blocks)) == ({"c1"}, {"block:c2"}, 1)
    assert state.blocks != {"c2"}
    assert state.mutes == set()


KINDS: list[ActKind] = ["follow", "unfollow", "block", "unblock", "hide", "unhide", "mute", "unmute"]
KINDS += ["seen", "seen", "engaged", "like", "unlike", "more", "less", "served", "profile"]


def any_act(rng: random.Random, number: int) -> Act:
    """Few targets, so that acts meet; times within minutes, in no order."""
    kind = rng.choice(KINDS)
    at_ms, target = NOON_MS + rng.randrange(600_000), name(rng.randrange(12))
    if kind == "profile":
        return Act("ann", kind, "", at_ms, (), at_ms, 0, name(number), Profile({"country": (at_ms, f"C{number}")}))
    pings = tuple(name(rng.randrange(40)) for _ in range(10)) if kind == "served" else ()
    target = name(1000 + number) if kind == "served" else target
    return Act("ann", kind, target, at_ms, pings, at_ms - rng.randrange(1000), rng.randrange(3), name(number))


def compared(state: UserState) -> list[object]:
    """What two stores must agree on."""
    targets = [name(n) for n in range(12)]
    parts = {"block": state.blocks, "hide": state.hides, "mute": state.mutes}
    held = {(kind, target) for kind, part in parts.items() for target in targets if target in part}
    freed = {f"{kind}:{target}" for kind in parts for target in targets if f"{kind}:{target}" in state.freed}
    session = state.session
    pages = [(page.request_id, page.at_ms, list(page.pings)) for page in session.served]
    now_ms = NOON_MS + 600_000
    steering, said = session.steering(now_ms), state.profile.get("country")
    return [state.follows, held, freed, set(session.seen), session.interactions(now_ms), steering, pages, said]


STORIES = rounds(6, 200)


@pytest.mark.timeout(1800)
async def test_whatever_fails_in_any_order_nothing_is_lost(
    fake: FakeDynamodb, signals: Store, other: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes, acts twice and out of order, answers lost, requests refused: the same as in SQLite, undisturbed.

    A fold that raises between two of its writes has left what a killed process leaves.
    """
    monkeypatch.setattr("pingfeed.core.breaker.FAILURES", 10**9)  # an open breaker would refuse every retry
    folds = failures = 0
    for seed in range(STORIES):
        rng = random.Random(seed)
        plain = SqliteUserSignals(f"sqlite://{tmp_path}/{seed}.sqlite")
        await signals.forget("ann")
        acts = [any_act(rng, number) for number in range(150)]
        fake.calls.clear()

        async def tell(store: Store, some: list[Act], rng: random.Random = rng) -> int:
            for failed in range(50):
                kinds = (done, done, done, lost, silent, refused("ThrottlingException"))
                if failed == 10:
                    fake._faults.clear()
                elif failed < 3:
                    fake.then(rng.choice(("put_item", "update_item", "batch_get_item")), *rng.choices(kinds, k=3))
                try:
                    await store.apply(some)
                except Unavailable:
                    continue
                return failed
            raise AssertionError("it never ends")

        calls: list[Awaitable[int]] = []
        for start in range(0, len(acts), 6):
            calls.append(tell(rng.choice((signals, other)), rng.sample(acts, 3) + acts[start : start + 6]))
            if rng.random() < 0.6:
                failures += sum(await asyncio.gather(*calls))
                calls.clear()
        failures += sum(await asyncio.gather(*calls))
        await plain.apply(acts)
        fake._faults.clear()
        expected = compared(await state_of(plain))
        for store in (signals, other):
            found = compared(await state_of(store))
            assert found == expected, f"story {seed}"
        folds += int(fake.tables["signals"][HEAD]["f"]["N"])
        await plain.close()
    figure("signals in DynamoDB", stories=STORIES, folds=folds, failures=failures)
    assert folds > 5 * STORIES
    assert failures > STORIES
