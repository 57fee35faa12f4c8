"""Who is forgotten is found nowhere after the next night, and nobody else has lost or gained anything by it."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from batch.forget import night as forgetting
from batch.forget.commands import forget_users
from batch.forget.tombstones import Tombstone, Tombstones
from batch.jobs import tick as ticking
from batch.lake.ledger import is_compacted
from batch.lake.raw_files import read_errors, read_events
from batch.lake.tables import AGGREGATES
from batch.serving import packets
from batch.training import training_set
from batch.wiring import build as build_batch
from pingfeed.core.clock import day_of
from tests.unit.dying_lake import deaths
from tests.unit.forget_world import NIGHT, NOON, ZOE, at, build, forget, json_rows, land_bytes, night, opened, places_of
from tests.unit.lakes import DAY, FIRST, FIRST_DAY, TICK_MS, LakeWorld, event_id, row

STORES = ("candidates.sqlite", "signals.sqlite", "trending.sqlite")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("forget") / "home"
    build(home)
    return home


def _lake(world: LakeWorld) -> Any:
    world.batch.tables.refresh()
    return world.batch.tables.lake


def _stones(world: LakeWorld) -> list[Tombstone]:
    notes = Tombstones(_lake(world))
    assert notes.pending() == []
    return notes.done_since(0)


def _others(world: LakeWorld) -> dict[str, str]:
    """A digest of every file of the lake: of its rows without hers, in order; of its bytes where it is no table."""
    found = {}
    for path in sorted((world.home / "lake").rglob("*")):
        name = path.relative_to(world.home / "lake").as_posix()
        if path.is_file() and not name.startswith(("forgotten", "ticks", "errors", "rejected")):
            found[name] = hashlib.sha256(_content(path)).hexdigest()
    return found


def _content(path: Path) -> bytes:
    if path.suffix != ".parquet":
        data = read_events_of(path)
        return repr([r for r in data if r["user_id"] != ZOE]).encode() if data else path.read_bytes()
    table = pq.read_table(path, partitioning=None)
    if "user_id" in table.column_names:
        table = table.filter(pc.fill_null(pc.not_equal(table["user_id"], ZOE), True))
    return repr((table.schema.names, table.schema.metadata, table.to_pylist())).encode()


def read_events_of(path: Path) -> list[dict[str, Any]]:
    class One:
        def read(self, _path: str) -> bytes:
            return path.read_bytes()

    found = read_events(One(), ["events/x"])  # type: ignore[arg-type]  # all that reading needs
    return found.rows.to_pylist() if found.files else []


def test_after_the_next_night_the_id_is_nowhere(tmp_path: Path, built: Path) -> None:
    world = opened(tmp_path / "home", built)
    before = places_of(world, ZOE)
    for part in ("events/", "errors/", "rejected/", "clean/", "_buckets/", "/relations/", "/blocked/", "/hidden/"):
        assert any(part in place for place in before), f"she is not in {part} to begin with"
    assert {"candidates.sqlite", "signals.sqlite"} <= set(before)
    assert any("training/" in place for place in before)
    forget(world)
    assert not set(STORES) & set(places_of(world, ZOE)), "packet and signals are to go at once"
    night(world, NIGHT)
    assert places_of(world, ZOE) == []
    assert any("clean/" in place for place in places_of(world, "ada"))


def test_what_others_did_and_all_totals_stay_as_they_were(tmp_path: Path, built: Path) -> None:
    world = opened(tmp_path / "home", built)
    night(world, NOON + 1)
    before = _others(world)
    forget(world)
    night(world, NOON + 1)
    assert _others(world) == before
    assert places_of(world, ZOE) == []


def test_files_without_the_user_are_not_touched(tmp_path: Path, built: Path) -> None:
    world = opened(tmp_path / "home", built)
    night(world, NOON + 1)
    held = set(places_of(world, ZOE))
    files = {p: p.stat().st_mtime_ns for p in (world.home / "lake").rglob("*") if p.is_file()}
    forget(world)
    night(world, NOON + 1)
    changed = {
        p.relative_to(world.home).as_posix() for p, ns in files.items() if not p.exists() or p.stat().st_mtime_ns != ns
    }
    assert changed == {place for place in held if place.startswith("lake/")}


def test_the_note_says_how_many_acceptances_left_the_raw_files_by_day(tmp_path: Path, built: Path) -> None:
    world = opened(tmp_path / "home", built)
    before = _raw_acceptances(world)
    forget(world)
    night(world, NIGHT)
    (stone,) = _stones(world)
    gone = before - _raw_acceptances(world)
    days = [day_of(ms) for _, _, ms in gone]
    assert stone.removed == {day: days.count(day) for day in sorted(set(days))}
    assert {user for user, _, _ in gone} == {ZOE}
    assert (stone.counted, stone.unreadable) == ([], [])


def _raw_acceptances(world: LakeWorld) -> set[tuple[str, str, int]]:
    lake = _lake(world)
    rows = read_events(lake, lake.list("events")).rows
    rows = pa.concat_tables([rows, read_errors(lake, lake.list("errors")).rows])
    return set(zip(*(rows[name].to_pylist() for name in ("user_id", "event_id", "received_ms")), strict=True))


def test_a_tick_before_the_night_makes_no_packet_and_training_no_row_of_the_user(tmp_path: Path, built: Path) -> None:
    world = opened(tmp_path / "home", built)
    forget(world)
    at(world, NOON + 1)
    ticking.run(world.batch, NOON + 1, everyone=True)
    assert "candidates.sqlite" not in places_of(world, ZOE)
    made = training_set.collect(world.batch, NOON + 1, 30)
    assert set(made.table["user_id"].to_pylist()) == {"ada"}


def test_who_is_forgotten_while_a_tick_runs_has_no_packet_after_it(
    tmp_path: Path, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = opened(tmp_path / "home", built)
    world.land([row("like", (NOON + 1) * TICK_MS - 1, user_id=user, ping_id="p1") for user in ("ada", ZOE)])
    at(world, NOON + 1)
    make = packets.make
    elsewhere = build_batch(world.batch.settings, clock=world.time, quiet=True)

    def forgotten_meanwhile(*arguments: Any) -> Any:
        forget_users(elsewhere, [ZOE])
        return make(*arguments)

    monkeypatch.setattr(packets, "make", forgotten_meanwhile)
    assert ticking.run(world.batch, NOON + 1).packets == 2
    assert "candidates.sqlite" not in places_of(world, ZOE)
    assert "candidates.sqlite" in places_of(world, "ada")


def test_events_that_were_on_their_way_are_learned_by_nobody_and_leave_the_raw_files(
    tmp_path: Path, built: Path
) -> None:
    world = opened(tmp_path / "home", built)
    forget(world)
    night(world, NIGHT)
    (before,) = _stones(world)
    late = [
        row("like", (NOON - 3) * TICK_MS, event_id=event_id(user), user_id=user, ping_id="p1") for user in ("ada", ZOE)
    ]
    world.land(late)
    land_bytes(world, NIGHT, "late", json_rows(late[1:]))
    at(world, NIGHT + 1)
    assert ticking.run(world.batch, NIGHT + 1).events == 1
    assert len([place for place in places_of(world, ZOE) if "/events/" in place]) == 2
    assert not any("/events/" not in place for place in places_of(world, ZOE))
    night(world, NIGHT + DAY)
    assert places_of(world, ZOE) == []
    (after,) = _stones(world)
    assert sum(after.removed.values()) == sum(before.removed.values()) + 1, "two files held one acceptance"
    assert world.learn(NIGHT + DAY + 1, everything=True).files == []


def test_a_file_that_a_sink_sends_again_loses_the_rows_again_and_counts_them_once(tmp_path: Path, built: Path) -> None:
    world = opened(tmp_path / "home", built)
    path = [path for path in _lake(world).list("events") if not is_compacted(path)][-1]
    data = _lake(world).read(path)
    forget(world)
    night(world, NOON + 1)
    (before,) = _stones(world)
    _lake(world).write(path, data)
    night(world, NOON + 2)
    assert places_of(world, ZOE) == []
    assert _stones(world) == [before]


def test_who_comes_back_starts_anew(tmp_path: Path, built: Path) -> None:
    world = opened(tmp_path / "home", built)
    forget(world)
    back = NOON + 4
    world.land([row("follow", back * TICK_MS - 1, user_id=ZOE, creator_id="c0")])
    at(world, back)
    ticking.run(world.batch, back)
    assert "candidates.sqlite" in places_of(world, ZOE)
    night(world, NIGHT)
    clean = world.batch.tables.clean(FIRST_DAY, FIRST_DAY + 3)
    hers = clean.filter(pc.equal(clean["user_id"], ZOE))
    assert hers["event_type"].to_pylist() == ["follow"]
    relations = world.batch.tables.state("relations", FIRST_DAY + 2)
    assert [r["creator"] for r in relations.to_pylist() if r["user_id"] == ZOE] == [world.number("creator", "c0")]


def test_what_a_user_published_stays_without_the_users_id(tmp_path: Path) -> None:
    world = LakeWorld(tmp_path, {"PINGFEED_SINK_FLUSH_SECONDS": "0.05"})
    made = row("ping_created", FIRST * TICK_MS, user_id=ZOE, ping_id="own", creator_id="c9", topics=["bread"])
    again = row("ping_created", FIRST * TICK_MS, user_id=ZOE, ping_id="own2", creator_id="c9")
    world.land([made])
    land_bytes(world, FIRST + 1, "json", json_rows([again]))
    world.learn(FIRST + 1)
    at(world, FIRST + 2)
    forget(world)
    world.land([made])
    night(world, FIRST + DAY)
    assert places_of(world, ZOE) == []
    clean = world.batch.tables.clean(FIRST_DAY, FIRST_DAY + 1)
    assert sorted(clean["ping_id"].to_pylist()) == ["own", "own2"]
    assert sorted(r["ping_id"] for r in read_events(_lake(world), _lake(world).list("events")).rows.to_pylist()) == [
        "own",
        "own",
        "own2",
    ]
    assert _stones(world)[0].removed == {}


def test_a_night_that_died_at_any_change_is_finished_by_the_next_and_counts_nothing_twice(
    tmp_path: Path, built: Path
) -> None:
    ready = opened(tmp_path / "ready", built)
    manifest = ready.learn(NOON + 1, everything=True)
    forget(ready)
    before, expected = _others(ready), None
    for attempt in deaths(least=20, most=60):
        world = opened(tmp_path / f"died-{attempt.changes}", ready.home)
        with attempt.in_lake(world.batch.tables):
            forgetting.run(world.batch, manifest)
        world.batch.tables.refresh()
        forgetting.run(world.batch, manifest)
        assert places_of(world, ZOE) == [], f"died at change {attempt.changes}"
        assert _others(world) == before
        removed = _stones(world)[0].removed
        expected = expected or removed
        assert removed == expected, f"died at change {attempt.changes}"


def test_a_second_wish_and_a_second_night_change_nothing(tmp_path: Path, built: Path) -> None:
    world = opened(tmp_path / "home", built)
    forget(world)
    forget(world)
    night(world, NOON + 1)
    (stone,) = _stones(world)
    forget(world)
    assert Tombstones(_lake(world)).pending() != [], "the clock has moved on: it is another wish"
    files = {p: p.read_bytes() for p in (world.home / "lake").rglob("*") if p.is_file() and "forgotten" not in str(p)}
    night(world, NOON + 1)
    assert {p: p.read_bytes() for p in files} == files
    first, second = _stones(world)
    assert (first.removed, second.removed) == (stone.removed, {})


def test_a_file_that_cannot_be_read_is_named_in_the_note(
    tmp_path: Path, built: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = opened(tmp_path / "home", built)
    path = _lake(world).list("events")[0]
    _lake(world).write(path, b"PAR1 no more")
    forget(world)
    night(world, NOON + 1)
    assert _stones(world)[0].unreadable == [path]
    assert "could not be looked at" in caplog.text


def test_no_name_and_no_note_holds_an_id(tmp_path: Path, built: Path) -> None:
    world = opened(tmp_path / "home", built)
    forget(world)
    assert not any("forgotten/" in place for place in places_of(world, ZOE))
    assert len(_lake(world).list("forgotten/pending")) == 1


@pytest.mark.parametrize("name", sorted(AGGREGATES))
def test_a_table_without_users_is_as_it_was(tmp_path: Path, built: Path, name: str) -> None:
    """Of the tables with users, only hers are gone."""
    world = opened(tmp_path / "home", built)

    def read() -> list[Any]:
        found: list[Any] = world.batch.tables.aggregate(name, FIRST_DAY, FIRST_DAY + 3).to_pylist()
        return found

    night(world, NOON + 1)
    before = read()
    forget(world)
    night(world, NOON + 1)
    assert read() == [r for r in before if r.get("user_id") != ZOE]
