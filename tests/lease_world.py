"""Two homes on one lake, and runs of the batch side in processes that a test stops, kills and resumes."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from batch.lake.ledger import Ledger
from batch.lake.versions import VERSIONED, _stored
from batch.wiring import build, read_pointer
from pingfeed.adapters import registry
from pingfeed.core.arrow import table_of_rows
from pingfeed.core.integrity import SnapshotManifest, read_manifest, verify
from pingfeed.core.ranker import snapshot_key
from pingfeed.settings import load
from tests.lease_runner import BUSY, SECONDS, TICK_MS, Request
from tests.prove import figure, rounds
from tests.unit.lakes import FIRST, partition, row

KINDS: Final = {"version": (1, 10), "pointer": (1, 10), "kill": (1, 20), "together": (1, 10)}
"""The usual and the full count of each kind of interleaving: 50 in all.

version   a run is paused just before the version that would commit what it loaded
pointer   it is paused between the snapshot and its pointer
kill      it is killed before one of its changes
together  both begin at the same time
"""
_ROUNDS_A_DAY: Final = 12


class LeaseWorld:
    """One lake, written to from two homes."""

    def __init__(self, folder: Path, runner: Any, settings: Mapping[str, str]) -> None:
        self._runner = runner
        common = {"PINGFEED_SINK_FLUSH_SECONDS": "0.05", "PINGFEED_SPOOL_DIR": str(folder / "no-spool"), **settings}
        self._environs = [{**common, "PINGFEED_HOME": str(folder / name)} for name in ("one", "two")]
        self.settings = load(self._environs[0])
        self._lake = registry.open_lake(self.settings)
        self._rows: list[Any] = []
        self._live = -1
        self.tick = FIRST
        self.counts = dict.fromkeys(("busy", "stopped", "killed", "done"), 0)

    def land(self, rng: random.Random) -> None:
        """Some new events before the next tick, and some that were accepted before."""
        self.tick += rng.randint(1, 96 // _ROUNDS_A_DAY)
        at = self.tick * TICK_MS - 1
        new = [row("ping_created", at, ping_id=f"p{self.tick}", creator_id="c")]
        new += [
            row(kind, at, user_id=f"u{rng.randrange(5)}", ping_id=f"p{self.tick}")
            for kind in rng.choices(("like", "impression"), k=5)
        ]
        again = rng.sample(self._rows, min(2, len(self._rows)))
        self._rows += new
        sink = pa.BufferOutputStream()
        pq.write_table(table_of_rows([*new, *again]), sink)
        self._lake.write(f"events/{partition(at)}/part-{self.tick}.parquet", sink.getvalue().to_pybytes())

    def start(self, home: int, run: str, stop: str = "", at: int = 0, later: int = 0) -> int:
        """A run in a process of its own."""
        return int(self._ask(Request(self._environs[home], run, self.tick + later, stop, at)))

    def outcome(self, process: int) -> str:
        """Wait for a run until it stops, dies or ends."""
        said = {str(BUSY): "busy", "0": "done"}.get(said := self._ask(process), said)
        assert said in self.counts, f"a run ended with {said}"
        self.counts[said] += 1
        return said

    def resume(self, process: int) -> str:
        os.kill(process, signal.SIGCONT)
        return self.outcome(process)

    def expire(self) -> None:
        """Let the time of a lease go by."""
        time.sleep(SECONDS + 0.1)

    def done(self, home: int, run: str, later: int = 0) -> None:
        """A run that has the lake for itself, or waits until a dead one's lease is over."""
        deadline = time.monotonic() + 60
        while (said := self.outcome(self.start(home, run, later=later))) == "busy" and time.monotonic() < deadline:
            time.sleep(0.2)
        assert said == "done"

    def check(self) -> None:
        """Each event counts once, everything that is named exists, and the live snapshot is whole and never older."""
        batch = build(self.settings, quiet=True)
        first, last = batch.ticks.day(FIRST) - 1, batch.ticks.day(self.tick) + 2
        clean = batch.tables.clean(first, last, ["event_id"])["event_id"].to_pylist()
        assert sorted(clean) == sorted(one["event_id"] for one in self._rows)
        likes = sum(one["event_type"] == "like" for one in self._rows)
        for name in ("ping_buckets", "user_buckets"):
            assert sum(batch.tables.aggregate(name, first, last)["likes"].to_pylist()) == likes, name
        numbers = batch.tables.catalogue("numbers").to_pylist()
        assert len(numbers) == len({(one["kind"], one["number"]) for one in numbers})
        stored = {path for root in VERSIONED for path in self._lake.list(root)}
        named = {_stored(*one) for one in batch.tables.versions._view().items()}
        assert named <= stored
        assert not Ledger(batch.tables, batch.ticks).unread(self.tick, everything=True).live
        digest = batch.features.digest
        pointer = batch.with_artifacts(lambda artifacts: read_pointer(artifacts, digest, "snapshot"))
        if pointer is not None:
            about = batch.with_artifacts(lambda store: store.get(snapshot_key(pointer.current, "manifest.json")))
            data = batch.with_artifacts(lambda store: store.get(snapshot_key(pointer.current)))
            manifest = read_manifest(SnapshotManifest, about, "the live snapshot")
            verify(manifest, data, "the live snapshot")
            assert manifest.tick >= self._live
            self._live = manifest.tick

    def _ask(self, request: Request | int) -> str:
        self._runner.stdin.write(msgspec.json.encode(request) + b"\n")
        self._runner.stdin.flush()
        said: str = self._runner.stdout.readline().decode().strip()
        assert said, "the process that forks the runs has ended"
        return said


@contextmanager
def lease_world(folder: Path, **settings: str) -> Iterator[LeaseWorld]:
    """A world whose runs are forked by one process that has imported everything."""
    command = [sys.executable, "-m", "tests.lease_runner"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as runner:
        yield LeaseWorld(folder, runner, {f"PINGFEED_{name}": value for name, value in settings.items()})
        assert runner.stdin is not None
        runner.stdin.close()


def interleave(world: LeaseWorld, kind: str, rng: random.Random) -> None:
    """One interleaving of two runs; afterwards the lake is as if each event had been learned by one of them."""
    world.land(rng)
    first, second = rng.sample(("etl", "tick"), 2) if kind != "pointer" else ("tick", rng.choice(("etl", "tick")))
    later = rng.randint(0, 1)
    if kind == "together":
        runs = [world.start(0, first), world.start(1, second, later=later)]
        assert set(map(world.outcome, runs)) <= {"done", "busy"}
    elif kind == "kill":
        world.outcome(world.start(0, first, "kill", rng.randint(0, 40)))
        world.done(1, second, later)
    else:  # It stops until its lease is over and another run has begun or ended.
        paused = world.start(0, first, kind)
        assert world.outcome(paused) == "stopped"
        other = world.start(1, second, later=later)
        said = world.outcome(other)
        if said == "busy":  # Where the machine is slow, the time may be over already.
            world.expire()
            other = world.start(1, second, rng.choice(("version", "")), later=later)
            said = world.outcome(other)
        assert world.resume(paused) == "busy"
        assert (world.resume(other) if said == "stopped" else said) == "done"
    world.tick += later
    if kind in ("together", "kill"):
        world.done(rng.randint(0, 1), "etl")
    else:
        world.done(1, "etl")
    world.check()


def interleavings(name: str, folder: Path, **settings: str) -> None:
    """All kinds of interleavings, in an order of their own."""
    kinds = [kind for kind, counts in KINDS.items() for _ in range(rounds(*counts))]
    random.Random(1).shuffle(kinds)
    with lease_world(folder, **settings) as world:
        for number, kind in enumerate(kinds):
            interleave(world, kind, random.Random(number))
    figure(f"leases, {name}", interleavings=len(kinds), **world.counts)
