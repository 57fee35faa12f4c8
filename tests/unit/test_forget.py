"""A deleted user is nowhere after the nightly job but in rejected events; other users lose and gain nothing."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from batch.jobs import tick as ticking
from batch.lake.ledger import is_compacted
from batch.lake.raw_files import read_events
from batch.lake.tables import AGGREGATES
from batch.lake.tombstones import DeletionRequest, DeletionRequests, find_user_ids
from batch.ops import signals_rebuild
from batch.ops.decisions import relations_of_lake
from batch.ops.forget import forget_users, remove_forgotten
from batch.serving import packets
from batch.training import training_set
from batch.wiring import Batch
from batch.wiring import build as build_batch
from pingfeed.adapters.lake_file import FileLake
from pingfeed.core.errors import Unavailable
from pingfeed.core.events import Row, encode_rows
from tests.unit.dying_lake import deaths
from tests.unit.forget_world import NIGHT, NOON, ZOE, build, forget, land_bytes, opened, places_of
from tests.unit.lakes import DAY, FIRST, FIRST_DAY, TICK_MS, LakeWorld, event_id, row

STORES = {"candidates.sqlite", "signals.sqlite", "trending.sqlite"}
TORN = '{"event_type":"view","user_id":"zoe","ping_id":"p1","watch'


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("forget") / "home"
    build(home)
    return home


@pytest.fixture
def world(tmp_path: Path, built: Path) -> LakeWorld:
    return opened(tmp_path / "home", built)


def _lake(world: LakeWorld) -> Any:
    world.batch.tables.refresh()
    return world.batch.tables.lake


def _requests(world: LakeWorld) -> list[DeletionRequest]:
    requests = DeletionRequests(_lake(world))
    assert requests.pending() == []
    return requests.done_since()


def _removed(world: LakeWorld) -> set[tuple[int, int]]:
    """The acceptances that are listed as removed, by hash and time of arrival."""
    files = (world.home / "lake" / "removed").rglob("*.parquet")
    tables = [pq.read_table(path, partitioning=None) for path in files]
    return {(row["event"], row["received_ms"]) for table in tables for row in table.to_pylist()}


def _others(world: LakeWorld) -> dict[str, str]:
    """A digest of each file of the lake: of its rows without hers, in order; of its bytes where it has none."""
    found = {}
    for name, path in world.stored().items():
        if not name.startswith(("forgotten", "removed", "ticks", "errors", "rejected")):
            found[name] = hashlib.sha256(_content(path)).hexdigest()
    return found


def _content(path: Path) -> bytes:
    if path.suffix != ".parquet":
        found = read_events(FileLake(f"file://{path.parent}"), [path.name])
        rows = [r for r in found.rows.to_pylist() if r["user_id"] != ZOE]
        return repr(rows).encode() if found.files else path.read_bytes()
    table = pq.read_table(path, partitioning=None)
    if "user_id" in table.column_names:
        table = table.filter(pc.fill_null(pc.not_equal(table["user_id"], ZOE), True))
    return repr((table.schema.names, table.schema.metadata, table.to_pylist())).encode()


def _raw_acceptances(world: LakeWorld) -> set[tuple[str, str, int]]:
    lake = _lake(world)
    rows = read_events(lake, lake.list("events")).rows
    rows = pa.concat_tables([rows, read_events(lake, lake.list("errors")).rows])
    return set(zip(*(rows[name].to_pylist() for name in ("user_id", "event_id", "received_ms")), strict=True))


def test_after_the_nightly_job_the_user_is_nowhere_but_in_rejected_events(world: LakeWorld) -> None:
    before = places_of(world, ZOE)
    lake = ("events/", "errors/", "/raw-", "clean/", "_buckets/", "/user_relations/", "training/")
    for part in (*lake, "candidates.sqlite", "signals.sqlite"):
        assert any(part in place for place in before), f"she is not in {part} to begin with"
    acceptances = _raw_acceptances(world)
    forget(world)
    assert not STORES & set(places_of(world, ZOE)), "packet and signals go at once"
    assert not any("forgotten/" in place for place in places_of(world, ZOE))
    world.night(NIGHT)
    assert places_of(world, ZOE) == []
    assert any("clean/" in place for place in places_of(world, "ada"))
    gone = acceptances - _raw_acceptances(world)
    assert {user for user, _, _ in gone} == {ZOE}
    assert len(_removed(world)) == len(gone), "each acceptance that left is listed once"
    (rejected,) = [path for path in _lake(world).list("rejected") if path.endswith("w1.jsonl")]
    assert ZOE in _lake(world).read(rejected).decode(), "rejected events expire instead"


def test_other_users_and_totals_stay_and_only_files_with_the_user_are_written(world: LakeWorld) -> None:
    world.night(NOON + 1)
    before, held = _others(world), set(places_of(world, ZOE))
    tables = {name: world.batch.tables.aggregate(name, FIRST_DAY, FIRST_DAY + 3).to_pylist() for name in AGGREGATES}
    files = {p: p.stat().st_mtime_ns for p in world.stored().values()}
    forget(world)
    world.night(NOON + 1)
    assert _others(world) == before
    assert places_of(world, ZOE) == []
    changed = {p for p, ns in files.items() if not p.exists() or p.stat().st_mtime_ns != ns}
    assert changed == {path for path in files if path.relative_to(world.home).as_posix() in held}
    for name, rows in tables.items():
        left = world.batch.tables.aggregate(name, FIRST_DAY, FIRST_DAY + 3).to_pylist()
        assert left == [r for r in rows if r.get("user_id") != ZOE], name


def test_before_the_nightly_job_no_tick_makes_a_packet_and_no_training_a_row_of_the_user(world: LakeWorld) -> None:
    forget(world)
    world.at(NOON + 1)
    ticking.run(world.batch, NOON + 1, everyone=True)
    assert "candidates.sqlite" not in places_of(world, ZOE)
    made = training_set.collect(world.batch, NOON + 1, 30)
    assert set(made.table["user_id"].to_pylist()) == {"ada"}


def test_a_user_deleted_while_a_tick_runs_has_no_packet_after_it(
    world: LakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.land([row("like", (NOON + 1) * TICK_MS - 1, user_id=user, ping_id="p1") for user in ("ada", ZOE)])
    world.at(NOON + 1)
    make = packets.make
    elsewhere = build_batch(world.batch.settings, clock=world.time, quiet=True)

    def forget_meanwhile(*arguments: Any) -> Any:
        forget_users(elsewhere, [ZOE])
        return make(*arguments)

    monkeypatch.setattr(packets, "make", forget_meanwhile)
    assert ticking.run(world.batch, NOON + 1).packets == 2
    assert ["candidates.sqlite" in places_of(world, user) for user in ("ada", ZOE)] == [True, False]


def test_a_user_deleted_while_the_signals_are_rebuilt_has_none_after_it(
    world: LakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.land([row("block", NOON * TICK_MS - 1, user_id=user, creator_id="c1") for user in ("ada", ZOE)])
    elsewhere = build_batch(world.batch.settings, clock=world.time, quiet=True)

    def forget_meanwhile(batch: Batch) -> Iterator[Row]:
        yield from relations_of_lake(batch)
        with ThreadPoolExecutor() as pool:
            pool.submit(forget_users, elsewhere, [ZOE]).result()

    monkeypatch.setattr(signals_rebuild, "relations_of_lake", forget_meanwhile)
    signals_rebuild.rebuild(world.batch)
    assert ["signals.sqlite" in places_of(world, user) for user in ("ada", ZOE)] == [True, False]


def test_late_events_are_never_learned_and_leave_the_raw_files(world: LakeWorld) -> None:
    forget(world)
    world.night(NIGHT)
    before = _removed(world)
    late = [row("like", (NOON - 3) * TICK_MS, event_id=event_id(u), user_id=u, ping_id="p1") for u in ("ada", ZOE)]
    world.land(late)
    land_bytes(world, NIGHT, "late", encode_rows(late[1:]))
    world.at(NIGHT + 1)
    assert ticking.run(world.batch, NIGHT + 1).events == 1
    assert ["/events/" in place for place in places_of(world, ZOE)] == [True, True]
    world.night(NIGHT + DAY)
    assert places_of(world, ZOE) == []
    assert len(_removed(world)) == len(before) + 1, "two files held one acceptance"
    assert world.learn(NIGHT + DAY + 1, everything=True).files == []


def test_a_file_that_a_sink_sends_again_loses_the_rows_again_and_counts_them_once(world: LakeWorld) -> None:
    path = [path for path in _lake(world).list("events") if not is_compacted(path)][-1]
    data = _lake(world).read(path)
    forget(world)
    world.night(NOON + 1)
    before = _removed(world)
    _lake(world).write(path, data)
    world.night(NOON + 2)
    assert places_of(world, ZOE) == []
    assert _removed(world) == before


def test_a_user_who_comes_back_starts_anew(world: LakeWorld) -> None:
    forget(world)
    back = NOON + 4
    world.land([row("follow", back * TICK_MS - 1, user_id=ZOE, creator_id="c0")])
    world.at(back)
    ticking.run(world.batch, back)
    assert "candidates.sqlite" in places_of(world, ZOE)
    world.night(NIGHT)
    clean = world.batch.tables.clean(FIRST_DAY, FIRST_DAY + 3)
    hers = clean.filter(pc.equal(clean["user_id"], ZOE))
    assert hers["event_type"].to_pylist() == ["follow"]
    relations = world.batch.tables.state("user_relations", FIRST_DAY + 2)
    assert [r["target"] for r in relations.to_pylist() if r["user_id"] == ZOE] == [world.number("creator", "c0")]


def test_what_a_user_published_stays_without_the_id(tmp_path: Path) -> None:
    world = LakeWorld(tmp_path)
    made = row("ping_created", FIRST * TICK_MS, user_id=ZOE, ping_id="own", creator_id="c9", topics=["bread"])
    again = row("ping_created", FIRST * TICK_MS, user_id=ZOE, ping_id="own2", creator_id="c9")
    world.land([made])
    land_bytes(world, FIRST + 1, "json", encode_rows([again]))
    world.learn(FIRST + 1)
    world.at(FIRST + 2)
    forget(world)
    world.land([made])
    world.night(FIRST + DAY)
    assert places_of(world, ZOE) == []
    clean = world.batch.tables.clean(FIRST_DAY, FIRST_DAY + 1)
    assert sorted(clean["ping_id"].to_pylist()) == ["own", "own2"]
    raw = read_events(_lake(world), _lake(world).list("events")).rows
    assert sorted(raw["ping_id"].to_pylist()) == ["own", "own", "own2"]
    assert not _removed(world)


def test_a_nightly_job_that_died_at_any_change_is_finished_by_the_next_and_counts_nothing_twice(
    tmp_path: Path, built: Path
) -> None:
    ready = opened(tmp_path / "ready", built)
    ready.learn(NOON + 1, everything=True)
    _keep_few_tables(ready)
    forget(ready)
    before, expected = _others(ready), set[tuple[int, int]]()
    for attempt in deaths(least=12, most=40):
        world = opened(tmp_path / f"died-{attempt.changes}", ready.home)
        with attempt.in_lake(world.batch.tables):
            remove_forgotten(world.batch)
        world.batch.tables.refresh()
        remove_forgotten(world.batch)
        assert places_of(world, ZOE) == [], f"died at change {attempt.changes}"
        assert _others(world) == before
        expected = expected or _removed(world)
        assert _removed(world) == expected, f"died at change {attempt.changes}"


def test_a_nightly_job_that_cannot_write_leaves_raw_files_alone_and_goes_on(
    world: LakeWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    forget(world)

    def fail(*_: object) -> None:
        raise Unavailable("the lake is read-only")

    monkeypatch.setattr("batch.ops.forget.put_removed", fail)
    world.night(NOON + 1)
    assert "the next nightly job retries" in caplog.text
    assert len(DeletionRequests(_lake(world)).pending()) == 1


def test_a_second_request_and_a_second_nightly_job_change_nothing(world: LakeWorld) -> None:
    forget(world)
    forget(world)
    world.night(NOON + 1)
    (request,) = _requests(world)
    forget(world)
    assert DeletionRequests(_lake(world)).pending() != [], "the clock has moved on: it is another request"
    files = {name: path.read_bytes() for name, path in world.stored().items() if "forgotten" not in name}
    world.night(NOON + 1)
    assert {name: path.read_bytes() for name, path in world.stored().items() if name in files} == files
    assert _requests(world)[0] == request


def test_a_file_that_cannot_be_read_is_named_in_the_request(world: LakeWorld, caplog: pytest.LogCaptureFixture) -> None:
    path = _lake(world).list("events")[0]
    _lake(world).write(path, b"PAR1 no more")
    forget(world)
    world.night(NOON + 1)
    assert _requests(world)[0].unreadable == [path]
    assert "could not be searched" in caplog.text


@pytest.mark.parametrize(
    ("document", "ids"),
    [
        ('{"event_type":"view","user_id":"zoe","ping_id":"p1","watch_time_ratio":-1}', {"zoe"}),
        ('{"event_type":"follow","user_id":"ada","creator_id":"zoe","screen":"home"}', {"ada"}),
        ('{"event_type":"view","user_id":"view","extra":"{\\"user_id\\":\\"zoe\\"}"}', {"view"}),
        ('{"event_type":"ping_deleted","creator_id":"zoe","ping_id":"p1"}', {"zoe", "p1"}),
        ("{event_type: view, user_id: zoe, broken", {"zoe"}),
        (TORN, {"zoe"}),
        ('{"event_type":"like","user_id":"view","torn', {"view"}),
        ('t":"{\\"who\\":\\"zoe\\",\\"event_type\\":\\"view', {"who", "zoe"}),
        ('{"user_id":3,"event_type":"view"}', {"3"}),
        ('["view"]', set()),
    ],
)
def test_a_malformed_row_is_about_the_user_it_names_or_else_about_any_quoted_id(document: str, ids: set[str]) -> None:
    assert find_user_ids(document) - {":"} == ids


def _keep_few_tables(world: LakeWorld) -> None:
    """Leave one table of each kind, so that there are fewer changes to die at."""
    lake = world.batch.tables.lake
    for path in list(lake.list("aggregates")):
        if path.split("/")[2] not in ("user_buckets", "user_relations", "ping_buckets"):
            lake.delete(path)
    world.batch.tables.versions.commit()
    world.batch.tables.versions.sweep()
