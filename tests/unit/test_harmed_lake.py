"""A lake with one random file harmed: etl, tick and train end with exit 0, name it, and rebuild what is derived."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch.lake.quarantine import quarantined
from batch.lake.tables import STATES
from batch.training import train as training
from pingfeed import checks
from pingfeed.cli import main
from pingfeed.core.clock import to_iso
from tests.prove import rounds
from tests.unit.lakes import DAY, FIRST, FIRST_DAY, TICK_MS, LakeWorld, row

DAYS = 4
AT = FIRST + DAYS * DAY + 2
SEED = 11
Harm = Callable[[random.Random, bytes], bytes]


def flip(rng: random.Random, data: bytes) -> bytes:
    bit = rng.randrange(len(data) * 8)
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


def foreign(rng: random.Random, data: bytes) -> bytes:
    if not data.startswith(b"PAR1"):
        return rng.choice([b"[]", b"null", b'{"other": 1}', b"[" * 5000, b'"7"'])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"other": [1], "user_id": [None]}), sink)
    return bytes(sink.getvalue())


HARMS: dict[str, Harm] = {
    "truncated": lambda rng, data: data[: rng.randrange(len(data))],
    "bit": flip,
    "foreign": foreign,
    "empty": lambda _rng, _data: b"",
    "garbage": lambda rng, _data: rng.randbytes(300),
    "not UTF-8": lambda _rng, _data: b'{"files": ["\xff"], "tick": "\xfe"}',
}
KINDS = {
    "raw": "events/*/*/*/*",
    "clean": "clean/**/*.parquet",
    "aggregate": "aggregates/*/*_buckets/*",
    "state": "aggregates/*/*[!s]/*",
    "catalogue": "catalogue/*/*",
    "numbers": "catalogue/numbers*/*",
    "training": "training/*/*",
    "manifest": "ticks/*/manifest*",
    "factors": "features/*/collaborative*",
    "pointer": "../artifacts/pointers/*/*",
    "mark": "ticks/*.json",
    "packets": "ticks/*/packets.json",
    "index": "../artifacts/*/index*",
    "forgotten": "forgotten/**/*.json",
}
DERIVED = {"clean", "aggregate", "state", "catalogue", "numbers", "training", "factors", "manifest"}


def learn(world: LakeWorld) -> None:
    """Some days of creations, requests, follows and hides, over several ticks a day, and a night each."""
    rng = random.Random(SEED)
    for day in range(DAYS):
        for part in range(3):
            tick = FIRST + day * DAY + 30 * part + 4
            pings = {f"p{day}{part}{i}": f"c{i % 5}" for i in range(12)}
            at_ms = tick * TICK_MS - 9
            made = [row("ping_created", at_ms, ping_id=p, creator_id=c, topics=["t"]) for p, c in pings.items()]
            world.land([*made, *acts(rng, day, part, tick)])
            world.learn(tick)
        world.night(FIRST + (day + 1) * DAY)
    world.land(acts(rng, 0, 0, FIRST - DAY), history=True)
    world.night(FIRST + DAYS * DAY + 1)


def acts(rng: random.Random, day: int, part: int, tick: int) -> list[dict[str, object]]:
    found = []
    for user in range(15):
        at_ms = tick * TICK_MS - 5
        same = {"user_id": f"u{user}", "request_id": f"r{tick}-{user}"}
        pings = [f"p{rng.randint(0, day)}{rng.randint(0, part)}{rng.randrange(12)}" for _ in range(6)]
        found += [row("impression", at_ms, ping_id=ping, position=i, **same) for i, ping in enumerate(pings)]
        found.append(row(rng.choice(["like", "share", "hide"]), at_ms, ping_id=pings[0], **same))
        found.append(row(rng.choice(["follow", "block"]), at_ms, creator_id=f"c{rng.randrange(5)}", user_id=f"u{user}"))
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("lake")
    world = LakeWorld(home)
    learn(world)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PINGFEED_HOME", str(home))
        patch.setattr(training, "MIN_ENGAGED_REQUESTS", 5)
        run(AT - 1)
        assert main(["forget", "nosuch-user"]) == 0
    world._files = 900_000
    world.land(acts(random.Random(1), 0, 0, AT))
    return home


def run(tick: int, *, night: bool = True) -> None:
    at = ["--at", to_iso(tick * TICK_MS + 5_000)]
    for command in ("etl", "train", "tick") if night else ("tick", "etl", "train"):
        assert main([command, *at]) == 0, command


def result(home: Path) -> tuple[object, ...]:
    """What a lake comes to: the snapshot, clean events, and sums of users' buckets."""
    world = LakeWorld(home)
    buckets = world.batch.tables.aggregate("user_ping_buckets", FIRST_DAY - 2, FIRST_DAY + 9)
    sums = buckets.group_by(["user_id", "ping"]).aggregate([("points", "sum"), ("impressions", "sum")])
    states = [sorted(map(repr, world.batch.tables.state(name, FIRST_DAY + DAYS).to_pylist())) for name in STATES]
    snapshot = (home / "artifacts" / "snapshots" / str(AT) / "snapshot.bin").read_bytes()
    return snapshot, world.known(), sorted(map(repr, sums.to_pylist())), states


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    home = tmp_path_factory.mktemp("whole") / "home"
    shutil.copytree(base, home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PINGFEED_HOME", str(home))
        patch.setattr(training, "MIN_ENGAGED_REQUESTS", 5)
        run(AT)
    return result(home)


@pytest.mark.parametrize("number", range(rounds(9, 400)))
def test_a_run_over_a_harmed_file_ends_well_names_it_and_rebuilds_what_is_derived(
    base: Path,
    whole: tuple[object, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    number: int,
) -> None:
    home = tmp_path / "home"
    shutil.copytree(base, home)
    monkeypatch.setenv("PINGFEED_HOME", str(home))
    monkeypatch.setattr(training, "MIN_ENGAGED_REQUESTS", 5)
    rng, kind = random.Random(f"{SEED} {number}"), list(KINDS)[number % len(KINDS)]
    stored = {path: name for name, path in LakeWorld(home).stored().items()}
    found = [path.resolve() for path in (home / "lake").glob(KINDS[kind])]
    path = rng.choice(sorted(path for path in found if path in stored or kind in ("pointer", "index")))
    harm = rng.choice(list(HARMS))
    before = path.read_bytes()
    path.write_bytes(HARMS[harm](rng, before))
    run(AT, night=rng.random() < 0.5)
    output = capfd.readouterr()
    said = output.out + output.err + caplog.text
    checked = {one.name: one for one in checks.examine({"PINGFEED_HOME": str(home)})}
    told = "; ".join(one.detail for one in checked.values())
    outcome = result(home)
    name = stored.get(path) or path.relative_to(home / "artifacts").as_posix()
    hint = f"{harm} of {name}: {said}"
    if kind in DERIVED:
        assert outcome == whole, hint
    # Factors of a past day are read by no step; a bit may mean nothing.
    if outcome != whole or (kind in DERIVED - {"factors"} and harm != "bit"):
        assert name in said, hint
        assert name in told or kind not in DERIVED, told
        if kind in DERIVED:
            assert any(one.what == name for one in quarantined(LakeWorld(home).batch.tables.lake))
