"""What only a real server can show: it is killed, it hangs, it forgets scripts, it fills up, it asks for a password."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
from redis.asyncio import Redis

from pingfeed.adapters import trending_redis
from pingfeed.adapters._redis import TIMEOUT_S
from pingfeed.adapters.trending_redis import RedisTrending as Trends
from pingfeed.adapters.user_signals_redis import RedisUserSignals as Signals
from pingfeed.core.breaker import REST_S
from pingfeed.core.errors import Rebuilding, Unavailable
from pingfeed.core.signals import (
    DELETED_TTL_MS,
    LIMITS,
    MAX_DELETED,
    STATE_TTL_MS,
    Act,
    ActKind,
    Profile,
    UserState,
    seen_key,
)
from pingfeed.core.signals import Signals as Read
from pingfeed.core.trending import Engagement
from tests.conformance.samples import NOON_MS
from tests.servers import Server, answered, redis_server, running

pytestmark = pytest.mark.real
SECRET = "s3cr3t"
GERMAN = Profile({"country": (NOON_MS, "DE")})
RELATION_KEYS = ("{ann}:relations", "{ann}:changes", "{ann}:taken-back")


own_server = pytest.mark.parametrize("server", ["own_redis", "own_cluster"], indirect=True)
"""For a test that ends its server."""


@pytest.fixture(params=["session_redis", "session_redis_cluster"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture
async def signals(url: str) -> AsyncIterator[Signals]:
    opened = Signals(url)
    yield opened
    await opened.close()


other = signals
"""Another process's view of the same store."""


@pytest.fixture
async def trending(url: str) -> AsyncIterator[Trends]:
    opened = Trends(url)
    yield opened
    await opened.close()


def seen(number: int, user: str = "ann") -> Act:
    return Act(user, "seen", f"p{number}", NOON_MS + number)


def keys(*pings: str) -> set[int]:
    """What `Session.seen` holds of these pings."""
    return set(map(seen_key, pings))


def seen_in(read: Read) -> set[int]:
    return set(read.state.session.seen)


def act(kind: ActKind, number: int, at_ms: int = NOON_MS, user: str = "ann") -> Act:
    """One on `t<number>`."""
    return Act(user, kind, f"t{number}", at_ms)


def like(user: str, ping: str = "p1", at_ms: int = NOON_MS) -> Engagement:
    return Engagement(user, ping, "like", "DE", at_ms)


def calls_of(signals: Signals, trending: Trends) -> list[Callable[[], Any]]:
    return [
        lambda: signals.apply([seen(1), Act("", "deleted", "gone", NOON_MS)]),
        lambda: signals.read("ann", NOON_MS),
        lambda: signals.forget("bob"),
        signals.mark_complete,
        signals.check,
        lambda: trending.add([like("ann")]),
        lambda: trending.top("DE", 10, NOON_MS),
        trending.check,
    ]


async def outcome_of(call: Awaitable[None]) -> BaseException | None:
    return (await asyncio.gather(call, return_exceptions=True))[0]


@own_server
async def test_a_killed_server_is_unavailable(server: Server, signals: Signals, trending: Trends) -> None:
    calls = calls_of(signals, trending)
    for _ in range(2):
        await asyncio.gather(*(call() for call in calls * 3))  # More connections than one have been made.
        server.kill()
        for call in calls:
            with pytest.raises(Unavailable):
                await call()
        server.start()
        for call in calls:
            await call()
    assert seen_in(await signals.read("ann", NOON_MS)) == keys("p1")
    assert (await signals.read("ann", NOON_MS)).deleted == {"gone"}
    assert dict(await trending.top("DE", 10, NOON_MS)) == {"p1": pytest.approx(3)}


@own_server
async def test_a_hanging_server_is_unavailable(server: Server, signals: Signals, trending: Trends) -> None:
    calls = calls_of(signals, trending)
    await asyncio.gather(*(call() for call in calls))
    server.pause()
    try:
        began = time.monotonic()
        outcomes = await asyncio.gather(*(call() for call in calls * 10), return_exceptions=True)
        took = time.monotonic() - began
    finally:
        server.resume()
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
    # `apply` makes up to three calls, but the first that fails is its last.
    assert TIMEOUT_S <= took < TIMEOUT_S + 3
    for call in calls:
        await answered(call)


@own_server
async def test_a_paused_server_costs_one_time_out_a_period(server: Server, signals: Signals) -> None:
    await signals.apply([seen(1)])
    server.pause()
    try:
        for _ in range(2):
            began = time.monotonic()
            outcomes = [await outcome_of(signals.apply([seen(number)])) for number in range(100)]
            assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
            assert TIMEOUT_S <= time.monotonic() - began < 2 * TIMEOUT_S
            await asyncio.sleep(REST_S)
    finally:
        server.resume()
    await answered(lambda: signals.apply([seen(2)]))


@own_server
async def test_a_read_only_replica_is_read_and_fails_the_check(raw: Any, signals: Signals, trending: Trends) -> None:
    if (await raw.info("cluster"))["cluster_enabled"]:
        return  # A node of a cluster becomes a replica in another way.
    await signals.apply([seen(1)])
    await signals.mark_complete()
    await raw.replicaof("127.0.0.1", 1)
    for call in (signals.check, trending.check, lambda: signals.apply([seen(2)])):
        with pytest.raises(Unavailable, match="takes no writes"):
            await call()
    assert (await signals.read("ann", NOON_MS)).state.session.seen.keys() == {seen_key("p1")}
    await raw.replicaof("NO", "ONE")
    await signals.check()


async def test_scripts_that_the_server_forgot_are_sent_again(raw: Any, signals: Signals, trending: Trends) -> None:
    for number in range(3):
        await raw.script_flush()
        await signals.apply([seen(number), seen(number, "bob"), Act("", "deleted", f"gone{number}", NOON_MS)])
        await trending.add([like(f"user-{number}")])
    read = await signals.read("bob", NOON_MS)
    assert seen_in(read) == keys("p0", "p1", "p2")
    assert read.deleted == {"gone0", "gone1", "gone2"}
    assert dict(await trending.top("DE", 10, NOON_MS)) == {"p1": pytest.approx(9)}


async def keys_of(raw: Any, pattern: str) -> list[str]:
    return sorted([key.decode() async for key in raw.scan_iter(match=pattern, count=1000)])


async def test_every_key_but_relations_expires_and_is_bounded(
    raw: Any, signals: Signals, trending: Trends, monkeypatch: pytest.MonkeyPatch, namespace: str
) -> None:
    monkeypatch.setattr(trending_redis, "MAX_PINGS", 40)
    monkeypatch.setattr(trending_redis, "_BUCKETS", 4)
    monkeypatch.setattr(trending_redis, "_A_BUCKET", 10)
    for start in range(0, MAX_DELETED + 1000, 1000):
        await signals.apply([Act("", "deleted", f"gone{n}", NOON_MS + n) for n in range(start, start + 1000)])
    await signals.apply([seen(number, f"user-{number % 20}") for number in range(1000)])
    await signals.apply([act("block", 1), act("unblock", 2), Act("ann", "profile", "", 1, profile=GERMAN)])
    await signals.mark_complete()
    for number in range(300):
        await trending.add([like(f"user-{k}", f"p{number}") for k in range(number % 5 + 1)])
    allowed = {
        "signals": STATE_TTL_MS,
        "{deleted}": DELETED_TTL_MS,
        "{trending}": max(trending_redis.HOT_TTL_MS, trending_redis.COUNTED_TTL_MS),
    }
    keys = await keys_of(raw, f"{namespace}:*")
    lasting = {f"{namespace}:{key}" for key in ("signals-complete", *RELATION_KEYS)}
    assert {key for key in keys if await raw.pttl(key) == -1} == lasting
    for key in set(keys) - lasting:
        kind = key.split(":")[1]
        assert 0 < await raw.pttl(key) <= allowed[kind], key
    assert len([key for key in keys if ":signals:" in key]) == 20
    assert await raw.xlen(f"{namespace}:{{deleted}}:log") == MAX_DELETED
    assert await raw.hlen(f"{namespace}:{{deleted}}:index") == MAX_DELETED
    hot = [key for key in keys if ":hot:" in key]
    counted = [key for key in keys if ":counted:" in key]
    assert len(hot) == 2, "one country and all of them, in one epoch"
    assert max([await raw.zcard(key) for key in hot]) <= 40 + 5
    assert len(counted) == 4
    assert max([await raw.scard(key) for key in counted]) <= 10


async def test_hashes_are_stored_as_integers_also_in_a_full_bucket(
    raw: Any, trending: Trends, monkeypatch: pytest.MonkeyPatch, namespace: str
) -> None:
    monkeypatch.setattr(trending_redis, "_BUCKETS", 1)
    await trending.add([like(f"user-{number}", "p") for number in range(700)])
    (counted,) = await keys_of(raw, f"{namespace}:*:counted:*")
    assert await raw.scard(counted) == trending_redis._A_BUCKET
    assert await raw.object("encoding", counted) == b"intset"


async def test_an_ended_epoch_is_copied_and_still_counts(raw: Any, trending: Trends, namespace: str) -> None:
    ends_ms = (NOON_MS // trending_redis.EPOCH_MS + 1) * trending_redis.EPOCH_MS
    await trending.add([like("ann", "before", ends_ms - 1)])
    await trending.add([like("bob", "after", ends_ms)])
    await trending.add([like("cem", "late", ends_ms - 1)])
    assert len(await keys_of(raw, f"{namespace}:*:hot:DE:*")) == 2
    for now_ms in (ends_ms, ends_ms - 1):  # The clock of the second reader is behind.
        top = dict(await trending.top("DE", 10, now_ms))
        assert top == pytest.approx({"before": 3, "after": 3, "late": 3}, rel=1e-5)
    assert [ping for ping, _ in await trending.top("DE", 1, ends_ms)] == ["after"]


async def test_counting_and_weight_are_one_step(raw: Any, trending: Trends, namespace: str) -> None:
    """What is sent again after a lost answer adds nothing, whatever the country says by then."""
    await trending.add([like("ann"), like("bob")])
    before = {key: await raw.dump(key) for key in await keys_of(raw, f"{namespace}:*:hot:*")}
    await trending.add([like("bob"), like("ann", at_ms=NOON_MS + 5)])
    await trending.add([Engagement("ann", "p1", "like", None, NOON_MS)])
    assert {key: await raw.dump(key) for key in await keys_of(raw, f"{namespace}:*:hot:*")} == before


async def test_namespaces_share_a_server_and_nothing_else(signals: Signals, namespace: str, url: str) -> None:
    other = Signals(url.replace(namespace, f"{namespace}.b"))
    await signals.apply([seen(1), Act("", "deleted", "gone", NOON_MS)])
    read = await other.read("ann", NOON_MS)
    assert (read.state, read.deleted) == (UserState(), frozenset())
    await other.forget("ann")
    assert seen_in(await signals.read("ann", NOON_MS)) == keys("p1")
    await other.close()


async def test_a_post_of_many_users_is_two_round_trips(signals: Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    run = AsyncMock(wraps=signals._redis.run)
    monkeypatch.setattr(signals._redis, "run", run)
    acts = [seen(number, f"user-{number % 50}") for number in range(100)]
    for _ in range(2):
        await signals.apply(acts)
    await signals.read("user-1", NOON_MS)
    assert [len(call.args) for call in run.call_args_list] == [50, 50, 50, 0, 4], "known acts are not written again"


async def test_a_read_brings_only_deletions_that_are_news(raw: Any, signals: Signals) -> None:
    await signals.apply([Act("", "deleted", f"gone{n}", NOON_MS) for n in range(MAX_DELETED)])
    assert len((await signals.read("ann", NOON_MS)).deleted) == MAX_DELETED
    before = (await raw.info("stats"))["total_net_output_bytes"]
    for _ in range(10):
        await signals.read("ann", NOON_MS)
    after = (await raw.info("stats"))["total_net_output_bytes"]
    assert after - before < 20_000  # Mostly the answer to INFO itself; the log is some 400,000 bytes.


async def test_a_ping_is_in_the_log_once_with_its_latest_time(raw: Any, signals: Signals, namespace: str) -> None:
    later_ms = NOON_MS + DELETED_TTL_MS
    for at_ms in (NOON_MS, NOON_MS, NOON_MS - 5, later_ms, NOON_MS):
        await signals.apply([Act("", "deleted", "p1", at_ms), Act("", "deleted", "p2", NOON_MS)])
    log = await raw.xrange(f"{namespace}:{{deleted}}:log")
    assert sorted(fields[b"p"] for _, fields in log) == [b"p1", b"p2"]
    assert (await signals.read("ann", later_ms + 1)).deleted == {"p1"}


async def test_lost_deletions_are_written_again(raw: Any, signals: Signals, namespace: str, url: str) -> None:
    await signals.apply([Act("", "deleted", "p1", NOON_MS)])
    assert (await signals.read("ann", NOON_MS)).deleted == {"p1"}
    await raw.delete(f"{namespace}:{{deleted}}:log")  # As an eviction does, which leaves the index.
    await signals.apply([Act("", "deleted", "p1", NOON_MS), Act("", "deleted", "p2", NOON_MS)])
    assert (await signals.read("ann", NOON_MS)).deleted == {"p1", "p2"}
    newcomer = Signals(url)
    assert (await newcomer.read("ann", NOON_MS)).deleted == {"p1", "p2"}
    await newcomer.close()


async def test_a_forgotten_user_stays_forgotten(signals: Signals, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """The apply had read what was there; it must not write that back."""
    await signals.apply([seen(1)])
    other = Signals(url)
    run = signals._redis.run

    async def forget_in_between(*commands: Any) -> list[Any]:
        if commands[0][0] == "EVALSHA":
            await other.forget("ann")
        return await run(*commands)

    monkeypatch.setattr(signals._redis, "run", forget_in_between)
    await signals.apply([seen(2)])
    assert seen_in(await other.read("ann", NOON_MS)) == keys("p2")
    await other.close()


@pytest.mark.parametrize(
    "damage", [b"\xc1\xff", b"x" * 16 + b"\xc1", b"x" * 16 + b"\x96\x81\xa1c\x01\x80\x80\x80\x90\x90"]
)
async def test_a_damaged_session_starts_over_and_relations_stay(
    raw: Any, signals: Signals, caplog: pytest.LogCaptureFixture, damage: bytes, namespace: str
) -> None:
    """The last one is of the earlier format, which held relations too."""
    await signals.mark_complete()
    await signals.apply([seen(1), act("block", 1)])
    await raw.set(f"{namespace}:signals:ann", damage)
    read = await signals.read("ann", NOON_MS)
    assert (seen_in(read), read.state.blocks, read.complete) == (set(), {"t1"}, False)
    assert "damaged" in caplog.text
    await signals.apply([seen(2)])
    read = await signals.read("ann", NOON_MS)
    assert (seen_in(read), read.complete) == (keys("p2"), True)


@pytest.mark.parametrize("field", ["block:t1", "follow:t3", "profile:country", "block:\udcff", "#:change", "#:id"])
async def test_damaged_relations_are_reported_and_the_others_hold(
    raw: Any, signals: Signals, other: Signals, caplog: pytest.LogCaptureFixture, field: str, namespace: str
) -> None:
    await signals.mark_complete()
    await signals.apply([act("block", 1), act("block", 2), act("follow", 3), act("follow", 4)])
    await signals.apply([Act("ann", "profile", "", 1, profile=GERMAN)])
    await raw.hset(f"{namespace}:{{ann}}:relations", field.encode(errors="surrogateescape"), b"\xff")
    for _ in range(2):
        read = await other.read("ann", NOON_MS)
        assert "t2" in read.state.blocks
        assert "t4" in read.state.following()
        assert read.complete == field.startswith("#")
        assert ("damaged" in caplog.text) == (not read.complete)
    await signals.apply([act("block", 1, NOON_MS + 1), act("follow", 3, NOON_MS + 1)])
    await signals.apply([Act("ann", "profile", "", 1, profile=GERMAN)])
    read = await other.read("ann", NOON_MS)
    assert (read.state.blocks, read.state.following()) == ({"t1", "t2"}, {"t3", "t4"})
    assert read.complete == (field != "block:\udcff"), "what a new decision replaces is whole again"


async def test_a_read_brings_only_relations_that_changed(raw: Any, signals: Signals, other: Signals) -> None:
    await signals.apply([act("block", n) for n in range(10_000)])
    assert len((await other.read("ann", NOON_MS)).state.blocks) == 10_000
    before = (await raw.info("stats"))["total_net_output_bytes"]
    for number in range(10):
        await signals.apply([act("unblock", number, NOON_MS + 1), act("mute", number)])
        state = (await other.read("ann", NOON_MS)).state
        assert (len(state.blocks), len(state.mutes)) == (9999 - number, number + 1)
    after = (await raw.info("stats"))["total_net_output_bytes"]
    assert after - before < 20_000  # Mostly the answer to INFO itself; the relations are some 300,000 bytes.


async def test_relations_are_upserted_by_two_writers_in_one_round_trip(
    signals: Signals, other: Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the order of arrival, the greatest key of each target wins."""
    run = AsyncMock(wraps=signals._redis.run)
    monkeypatch.setattr(signals._redis, "run", run)
    await signals.apply([act("follow", number, user=f"user-{number}") for number in range(50)])
    assert [len(call.args) for call in run.call_args_list if call.args] == [50]
    acts = [act("unblock" if at % 2 else "block", n, NOON_MS + at) for at in range(9) for n in range(20)]
    writes = [writer.apply(acts[at::7]) for at in range(7) for writer in (signals, other)]
    await asyncio.gather(*writes, signals.apply(acts[::-1]))
    for reader in (signals, other):
        assert (await reader.read("ann", NOON_MS)).state.blocks == {f"t{n}" for n in range(20)}


async def test_what_was_taken_back_first_makes_room_at_the_limit(
    raw: Any, signals: Signals, other: Signals, monkeypatch: pytest.MonkeyPatch, namespace: str
) -> None:
    monkeypatch.setitem(LIMITS, "follow", 16)
    await signals.apply([act("unfollow", n, NOON_MS + n) for n in reversed(range(4))])
    await signals.apply([act(kind, n) for kind in ("follow", "block", "unmute") for n in range(4, 16)])
    await other.read("ann", NOON_MS)
    await signals.apply([act("follow", 16)])
    for reader in (signals, other):
        state = (await reader.read("ann", NOON_MS)).state
        assert state.follows.keys() == {f"t{n}" for n in range(2, 17)}, "an eighth of the limit is removed at once"
        assert len(state.blocks) == 12
    sizes = [await raw.zcard(f"{namespace}:{key}") for key in RELATION_KEYS[1:]]
    assert sizes == [15 + 12 + 12, 2 + 12]


async def test_a_server_that_forgot_everything_is_noticed_at_the_next_read(raw: Any, signals: Signals) -> None:
    await signals.mark_complete()
    await signals.apply([act("block", 1)])
    assert (await signals.read("ann", NOON_MS)).complete
    for key in await keys_of(raw, "*"):  # FLUSHALL, but for other tests' keys.
        if key.startswith(f"{signals._redis.key('')}"):
            await raw.delete(key)
    read = await signals.read("ann", NOON_MS)
    assert (read.state, read.complete) == (UserState(), False)
    with pytest.raises(Rebuilding):
        await signals.check()
    await signals.apply([act("block", 2)])
    assert (await signals.read("ann", NOON_MS)).state.blocks == {"t2"}


async def test_writes_that_a_restarted_server_lost_do_not_hide_later_ones(
    raw: Any, signals: Signals, other: Signals, namespace: str
) -> None:
    """As with `appendfsync everysec`: the copy has seen more changes than the server remembers."""
    hash_, changes, _ = (f"{namespace}:{key}" for key in RELATION_KEYS)
    await signals.apply([act("block", 1)])
    before = [(key, await raw.dump(key)) for key in (hash_, changes)]
    await signals.apply([act("block", 2)])
    for reader in (signals, other):
        assert (await reader.read("ann", NOON_MS)).state.blocks == {"t1", "t2"}
    for key, value in before:
        await raw.restore(key, 0, value, replace=True)
    assert (await signals.read("ann", NOON_MS)).state.blocks == {"t1"}
    await signals.apply([act("block", 3)])
    assert (await signals.read("ann", NOON_MS)).state.blocks == {"t1", "t3"}
    assert "t3" in (await other.read("ann", NOON_MS)).state.blocks, "its number is not the lost one's"


async def test_forgetting_leaves_no_key(raw: Any, signals: Signals, namespace: str) -> None:
    await signals.apply([seen(1), act("block", 1), act("unmute", 1), Act("ann", "profile", "", 1, profile=GERMAN)])
    assert len(await keys_of(raw, f"{namespace}:*")) == 4
    await signals.forget("ann")
    assert await keys_of(raw, f"{namespace}:*") == []


async def test_a_server_that_is_nearly_full_is_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running(redis_server(tmp_path / "redis")) as server:
        signals = Signals(f"redis://127.0.0.1:{server.port}")
        await signals.mark_complete()
        async with Redis(port=server.port) as raw:
            full = (await raw.info("memory"))["used_memory"] * 5 // 4
            for most, warnings in ((0, 0), (1 << 30, 0), (full, 1), (full, 1), (1 << 30, 1), (full, 2)):
                await raw.config_set("maxmemory", most)
                await signals.check()
                assert caplog.text.count("70 % of its memory") == warnings
        await signals.close()


async def test_another_programs_key_is_unavailable_and_kept(raw: Any, signals: Signals, namespace: str) -> None:
    await raw.rpush(f"{namespace}:signals:ann", "x")
    with pytest.raises(Unavailable):
        await signals.apply([seen(1), seen(1, "bob")])
    assert await raw.type(f"{namespace}:signals:ann") == b"list"


async def test_the_password_of_the_url_is_used(tmp_path: Path) -> None:
    with running(redis_server(tmp_path / "redis", "--requirepass", SECRET)) as server:
        for login in (f":{SECRET}@", f":{SECRET}-not@", f"me:{SECRET}-not@", ""):
            signals = Signals(f"redis://{login}127.0.0.1:{server.port}")
            if login == f":{SECRET}@":
                assert not await signals.is_complete()
            else:
                with pytest.raises(Unavailable, match="does not accept the user or password"):
                    await signals.check()
            await signals.close()


def test_one_adapter_a_loop_is_enough_for_the_batch_side(url: str) -> None:
    async def once(number: int) -> int:
        signals = Signals(url)
        await signals.apply([seen(number)])
        count = len(seen_in(await signals.read("ann", NOON_MS)))
        await signals.close()
        return count

    assert [asyncio.run(once(number)) for number in range(3)] == [1, 2, 3]
