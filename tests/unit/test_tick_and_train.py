"""A small simulated world through etl, train and tick: what comes out, and that doing it again changes nothing."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from batch.features.collaborative import quantiles_as_of
from batch.jobs import tick
from batch.jobs.nightly import etl
from batch.jobs.schedule import Schedule
from batch.lake.ledger import in_words
from batch.serving import snapshot
from batch.serving.packets import users_to_refresh
from batch.training import models
from batch.training.models import live_ranker
from batch.training.train import MIN_ENGAGED_REQUESTS, last_trained, train
from batch.wiring import Batch
from pingfeed.cli import main
from pingfeed.core.clock import to_iso
from pingfeed.core.errors import Busy, FormatError, InvalidInput, NotFound, Unavailable
from pingfeed.core.features import NO_SCORE, NO_VALUE
from pingfeed.core.packet import MAX_CANDIDATES, decode
from pingfeed.core.ranker import Pointer, pointer_key, snapshot_key
from pingfeed.core.snapshot import Snapshot
from simulator.lake import write_history
from simulator.world import Spec, World, user_id
from tests.unit.lakes import FIRST, TICK_MS, LakeWorld, row

END = FIRST + 7 * 96
USERS = 60


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A week of a small world: loaded, trained on and ticked at END."""
    home = tmp_path_factory.mktemp("world")
    world = World.build(Spec(seed=3, users=USERS, pings=600, days=7, until_ms=END * TICK_MS, tick_ms=TICK_MS))
    write_history(world, home / "lake")
    batch = _batch(home, END)
    etl(batch, END)
    train(batch, END)
    tick.run(batch, END, everyone=True)
    return home


@pytest.fixture
def world(tmp_path: Path) -> LakeWorld:
    return LakeWorld(tmp_path)


def _batch(home: Path, at_tick: int, **settings: str) -> Batch:
    world = LakeWorld(home, settings)
    world.at(at_tick)
    return world.batch


def _artifact(batch: Batch, key: str) -> bytes:
    return asyncio.run(batch.open_artifacts().get(key))


def _live_snapshot(batch: Batch) -> str:
    key = pointer_key(batch.features.digest, "snapshot")
    return msgspec.json.decode(_artifact(batch, key), type=Pointer).current


def _packet(batch: Batch, user: str) -> bytes:
    async def get() -> bytes | None:
        store = batch.open_candidates()
        try:
            return await store.get(user, batch.clock())
        finally:
            await store.close()

    data = asyncio.run(get())
    assert data is not None, f"{user} has no packet"
    return data


def test_every_user_seen_gets_a_packet_within_one_write_unit(home: Path) -> None:
    batch = _batch(home, END)
    sizes = []
    for number in range(USERS):
        data = _packet(batch, user_id(number))
        packet = decode(data, batch.features.digest)
        assert len(data) < 1000
        sizes.append(len(packet.numbers))
        assert len(set(packet.numbers.tolist())) == len(packet.numbers)
        assert packet.user is not None
        assert (packet.sources > 0).all()
    assert max(sizes) == np.median(sizes) == MAX_CANDIDATES, "only those who saw nearly everything get fewer"


def test_a_packet_has_no_ping_that_the_user_has_seen(home: Path) -> None:
    batch = _batch(home, END)
    pairs = batch.tables.aggregate("user_ping_buckets", END // 96 - 30, END // 96).to_pylist()
    for number in range(10):
        packet = decode(_packet(batch, user_id(number)), batch.features.digest)
        seen = {pair["ping"] for pair in pairs if pair["user_id"] == user_id(number)}
        assert seen
        assert not seen & set(packet.numbers.tolist())


def test_a_packets_retrieval_is_what_written_history_gets_for_that_tick(home: Path) -> None:
    batch = _batch(home, END)
    known = 0
    for user in map(user_id, range(10)):
        packet = decode(_packet(batch, user), batch.features.digest)
        n = len(packet.numbers)
        users, ticks = pa.chunked_array([pa.array([user] * n)]), np.full(n, END)
        of_history = quantiles_as_of(batch, users, packet.numbers.astype(np.int64), ticks)
        np.testing.assert_array_equal(of_history, packet.retrieval)
        known += (of_history != NO_SCORE).sum()
    assert known > 500


def test_candidates_are_in_the_order_of_the_live_model(home: Path) -> None:
    """Packet order is what the feed falls back to: best first, by the very model that serves."""
    batch = _batch(home, END)
    live = models.listed(batch)[-1][0]
    assert (live.live, live.model_id) == (True, live_ranker(batch).model_id)
    assert live.metrics["model_minus_popularity_low"] > 0
    assert live.score_std > 0


@pytest.mark.parametrize("at", [END, END - 4], ids=["the same", "an older"])
def test_a_tick_run_again_publishes_the_same_bytes_and_an_older_one_replaces_nothing(home: Path, at: int) -> None:
    batch = _batch(home, END)
    before = _artifact(batch, snapshot_key(END)), _packet(batch, user_id(1))
    tick.run(_batch(home, at), at, everyone=True)
    assert (_artifact(batch, snapshot_key(END)), _packet(batch, user_id(1))) == before
    assert _live_snapshot(batch) == str(END)


def test_the_snapshot_holds_the_servable_pings_in_order(home: Path) -> None:
    batch = _batch(home, END)
    found = Snapshot(_artifact(batch, snapshot_key(END)))
    assert (np.diff(found.numbers.astype(np.int64)) > 0).all()
    assert found.row_of_ping(found.ping_id(3)) == 3
    assert len(found) == 600
    newest = found.created_tick[found.listed("fresh")]
    assert (np.diff(newest.astype(np.int64)) <= 0).all()


def test_only_the_newest_snapshots_are_kept_with_the_names_of_their_facet_values(world: LakeWorld) -> None:
    for at in range(10):
        _tick(world, FIRST + at)
    for name in ("snapshot.bin", "facets.json"):
        kept = sorted(path.parent.name for path in (world.home / "artifacts").rglob(name))
        assert kept == [str(FIRST + at) for at in range(2, 10)]


def test_a_snapshots_facet_values_have_their_names_beside_it(tmp_path: Path) -> None:
    world = LakeWorld(tmp_path, {"PINGFEED_FACETS": "topics,tags"})
    values = {"p1": [["bread", "a=b"], ["slow"]], "p2": [["music"], []], "p3": [[], ["slow", "loud"]]}
    for ping, (topics, tags) in values.items():
        facets = {"tags": tags}
        world.land(
            [row("ping_created", FIRST * TICK_MS - 1, ping_id=ping, creator_id="c", topics=topics, facets=facets)]
        )
    _tick(world, FIRST)
    folder = tmp_path / "artifacts" / "snapshots" / str(FIRST)
    found = Snapshot.open(folder / "snapshot.bin")
    names = msgspec.json.decode((folder / "facets.json").read_bytes())
    told = {
        found.ping_id(at): [
            [names[facet][str(number)] for number in numbers if number != NO_VALUE]
            for facet, numbers in zip(found.facets, found.facet_values[at].tolist(), strict=True)
        ]
        for at in range(len(found))
    }
    assert told == values
    assert {str(number): name for number, name in found.topic_names.items()} == names["topics"], "mutes need them"


def test_only_users_with_new_events_are_refreshed(home: Path) -> None:
    batch = _batch(home, END)
    assert snapshot.live_tick(batch) == END
    assert users_to_refresh(batch, END + 1, END) == []
    assert len(users_to_refresh(batch, END, None)) == USERS
    assert 0 < len(users_to_refresh(batch, END, END - 3)) < USERS


def test_too_few_engaged_requests_say_how_many_are_missing(world: LakeWorld) -> None:
    world.learn(FIRST)
    outcome = train(world.batch, FIRST)
    assert outcome.manifest is None
    assert outcome.sentence.startswith(
        f"Not enough training data: 0 of {MIN_ENGAGED_REQUESTS} feed requests with an interaction (6 h window)"
    )
    assert live_ranker(world.batch).model_id is None


def test_promote_and_roll_back_move_the_pointer(home: Path) -> None:
    batch = _batch(home, END)
    first = models.listed(batch)[0][0]
    second = msgspec.structs.replace(first, model_id="another")
    text = _artifact(batch, f"models/{first.model_id}/model.txt").decode()
    models.store(batch, second, text)
    assert [live for _, live in models.listed(batch)] == [False, True]
    assert models.roll_back(batch) == first.model_id
    models.promote(batch, "another")
    assert live_ranker(batch).model_id == "another"
    models.roll_back(batch)
    with pytest.raises(NotFound):
        models.promote(batch, "never-trained")
    foreign = msgspec.structs.replace(first, model_id="foreign", digest="0" * 16, live=False)
    models.store(batch, foreign, text)
    with pytest.raises(InvalidInput):
        models.promote(batch, "foreign")


def test_rolling_back_without_an_earlier_model_says_so(world: LakeWorld) -> None:
    with pytest.raises(NotFound, match="nothing to roll back"):
        models.roll_back(world.batch)


def test_a_snapshot_of_other_features_is_rejected_at_load(home: Path) -> None:
    with pytest.raises(FormatError):
        Snapshot.open(home / "artifacts" / snapshot_key(END), "0" * 16)


def test_a_tick_reports_its_packets_and_the_events_that_it_read(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = to_iso(END * TICK_MS + 5_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PINGFEED_HOME", str(home))
        patch.setenv("PINGFEED_SINK_FLUSH_SECONDS", "0.05")
        assert main(["tick", "--all", "--at", at, "--json"]) == 0
        done = msgspec.json.decode(capsys.readouterr().out)
        assert main(["tick", "--all", "--at", at]) == 0
        sentence = capsys.readouterr().out
    assert done["packets"] > USERS / 2
    assert 0 < done["packet_bytes_p50"] <= done["packet_bytes_p95"]
    assert f"{done['packets']} packets (bytes p50/p95: {done['packet_bytes_p50']:,}/" in sentence
    assert (done["rejected"], done["left_out"]) == (0, 0)
    duplicates = done["read"] - done["events"]
    assert f"{done['read']:,} events read, {done['events']:,} of them new, {duplicates:,} duplicates;" in sentence


def test_a_run_reports_read_new_duplicate_and_rejected_events() -> None:
    said = in_words(read=1200, kept=1000, rejected=2, left_out=3)
    assert said.startswith("1,200 events read, 1,000 of them new, 200 duplicates")
    assert said.endswith("2 documents rejected, 3 files unreadable")


@pytest.mark.parametrize(
    ("sizes", "percent", "found"),
    [([], 95, 0), ([7], 95, 7), ([2] + [1] * 19, 95, 1), ([2, 2] + [1] * 19, 95, 2), ([1, 2, 3], 50, 2)],
)
def test_95_percent_do_not_exceed_the_p95(sizes: list[int], percent: int, found: int) -> None:
    assert tick.percentile(sizes, percent) == found


def test_the_next_tick_makes_up_for_one_killed_before_its_packets(
    world: LakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    _tick(world, FIRST)
    world.land([row("like", (FIRST + 1) * TICK_MS - 1, user_id="ada", ping_id="p1")])
    with monkeypatch.context() as patch:
        patch.setattr("batch.serving.packets.make", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            _tick(world, FIRST + 1)
    assert _tick(world, FIRST + 2).packets == 1
    assert decode(_packet(world.batch, "ada"), world.batch.features.digest).tick == FIRST + 2


def _tick(world: LakeWorld, number: int) -> tick.TickDone:
    world.at(number)
    return tick.run(world.batch, number)


def test_a_tick_that_rebuilds_the_signals_keeps_its_states(world: LakeWorld) -> None:
    world.land([row("block", FIRST * TICK_MS - 1, user_id="ada", creator_id="c")])
    world.learn(FIRST)
    world.at(FIRST + 96)
    tick.run(world.batch, FIRST + 96)
    assert asyncio.run(world.batch.open_signals().is_complete())
    assert world.batch.ticks.day(FIRST + 96) in world.batch.tables.state_days("lifetime")


def test_a_replay_of_the_past_loads_nothing_and_loses_nothing(world: LakeWorld) -> None:
    world.land([row("ping_created", FIRST * TICK_MS, ping_id="p1", creator_id="c")])
    world.learn(FIRST + 100, everything=True)
    world.batch.tables.compact_catalogue((FIRST + 100) * 100)
    world.land([row("ping_created", (FIRST + 101) * TICK_MS - 1, ping_id="p2", creator_id="c")])
    assert world.learn(FIRST + 50, everything=True).kept == 0
    assert world.learn(FIRST + 101).kept == 1
    assert world.number("ping", "p2") == 2


def test_two_feature_sets_side_by_side_keep_their_snapshots(home: Path) -> None:
    old, new = _batch(home, END), _batch(home, END, PINGFEED_ATTRIBUTES="words")
    tick.run(new, END)
    for batch in (old, new):
        assert Snapshot(_artifact(batch, snapshot_key(_live_snapshot(batch)))).digest == batch.features.digest


def test_two_runs_on_one_lake_never_overlap(world: LakeWorld) -> None:
    one, other = world.batch, LakeWorld(world.home).batch
    with one.lease(), pytest.raises(Busy), other.lease():
        pass
    with other.lease():
        pass


def _schedule(world: LakeWorld, tick: int = FIRST) -> Schedule:
    """The schedule of a process that starts a minute after a tick began."""
    world.time.now_ms = tick * TICK_MS + 60_000
    return Schedule(world.batch)


def _nights(plan: Schedule, *ticks: int) -> list[bool]:
    return [plan.night_is_due(FIRST + at) for at in ticks]


@pytest.mark.parametrize("error", [FormatError("no training today"), ZeroDivisionError("a bug")])
def test_a_failed_nightly_job_does_not_stop_ticks_and_is_retried_in_an_hour(
    world: LakeWorld, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: Any) -> None:
        raise error

    plan = _schedule(world, FIRST + 20)
    monkeypatch.setattr("batch.jobs.schedule.train", refuse)
    assert plan.run_once() == snapshot.live_tick(plan.batch) == FIRST + 20
    assert _nights(plan, 21, 23, 24) == [False, False, True]


def test_the_schedule_survives_any_error_of_a_tick_says_so_once_and_runs_the_next(
    world: LakeWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plan, ran = _schedule(world), list[int]()

    def run(_batch: Batch, at: int, **_: Any) -> Any:
        ran.append(at)
        raise ZeroDivisionError("a bug")

    def wait(_seconds: float) -> None:
        world.time.now_ms += TICK_MS // 2

    monkeypatch.setattr("batch.jobs.schedule.ticking.run", run)
    plan.run_forever(Mock(is_set=lambda: len(ran) == 2, wait=wait))
    assert ran == [FIRST, FIRST + 1]
    assert caplog.text.count("the next one takes over") == 2
    assert "ZeroDivisionError: a bug" in caplog.text


def test_the_schedule_runs_each_tick_once_and_catches_up_only_the_latest(world: LakeWorld) -> None:
    plan = _schedule(world)
    assert (plan.run_once(), plan.run_once()) == (FIRST, None)
    world.time.now_ms += 5 * TICK_MS
    assert (plan.run_once(), plan.run_once()) == (FIRST + 5, None)


def test_a_tick_is_not_due_in_its_first_moment(world: LakeWorld) -> None:
    plan = _schedule(world)
    plan.last_tick = FIRST - 1
    for into_ms, due in ((100, None), (5_100, FIRST)):
        world.time.now_ms = FIRST * TICK_MS + into_ms
        assert plan.due() == due


def test_the_nightly_job_is_due_from_its_hour_until_a_training_has_run(world: LakeWorld) -> None:
    plan = _schedule(world)
    assert _nights(plan, 0, 11, 12, 52) == [False, False, True, True]
    train(plan.batch, FIRST + 12)
    assert _nights(plan, 12, 52, 108) == [False, False, True]


def test_a_restart_neither_repeats_nor_skips_a_nightly_job(world: LakeWorld) -> None:
    assert last_trained(world.batch) is None
    assert _schedule(world, FIRST + 20).run_once() == FIRST + 20
    assert last_trained(world.batch) == FIRST + 20
    assert _nights(_schedule(world, FIRST + 20), 21) == [False]


def test_a_tick_on_a_busy_lake_is_retried_and_not_skipped(world: LakeWorld) -> None:
    plan = _schedule(world)
    stop = threading.Event()
    with LakeWorld(world.home).batch.lease():
        runner = threading.Thread(target=plan.run_forever, args=(stop,))
        runner.start()
        stop.wait(0.7)  # at least one attempt finds it busy; more time changes nothing
    deadline = time.monotonic() + 30
    while plan.last_tick is None and time.monotonic() < deadline:
        stop.wait(0.05)
    stop.set()
    runner.join()
    assert plan.last_tick == FIRST


def test_a_tick_that_fails_in_an_outage_is_logged_and_retried_with_backoff(
    world: LakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    plan = _schedule(world)
    refused = Unavailable("the table pings is not available: AccessDeniedException")
    for failures, longest_s in ((1, 1), (4, 8), (20, 60)):
        assert longest_s / 2 <= plan._failed(refused, failures) <= longest_s
    assert caplog.text.count("a tick failed; retrying") == 3
    assert plan.last_tick is None, "the tick is still due"
    plan._failed(FormatError("a state that no second try mends"), 1)
    assert plan.last_tick == FIRST, "left to the next one"
