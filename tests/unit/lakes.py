"""A lake on disk with known events, and the batch side over it at times that a test sets."""

import base64
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from batch.features import catalogue, day_state
from batch.features.catalogue import Catalogue
from batch.features.point_in_time import PointInTime
from batch.jobs.load_events import EventLoader
from batch.jobs.nightly import etl
from batch.lake.ledger import Manifest
from batch.wiring import Batch, build
from pingfeed.core.arrow import table_of_rows
from pingfeed.core.clock import day_of
from pingfeed.core.events import Row
from pingfeed.settings import load

TICK_MS = 900_000
DAY = 96
FIRST_DAY = 20_000
FIRST = FIRST_DAY * DAY
"""The first tick of some day."""
ARRIVED_MS = FIRST * TICK_MS + 1000


@dataclass
class Time:
    """A clock that a test moves."""

    now_ms: int = FIRST * TICK_MS

    def __call__(self) -> int:
        return self.now_ms


def partition(at_ms: int) -> str:
    """The folder of the files that arrived at a time."""
    year, month, day = day_of(at_ms).split("-")
    return f"year={year}/month={month}/day={day}"


@dataclass
class LakeWorld:
    """Writes raw files as a sink (or an importer) would, and runs ticks over them."""

    home: Path
    settings: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.time = Time()
        environ = {"PINGFEED_HOME": str(self.home), "PINGFEED_SINK_FLUSH_SECONDS": "0.05", **self.settings}
        self.batch: Batch = build(load(environ), clock=self.time, quiet=True)
        self._files = 0

    def land(self, rows: Iterable[Row], *, history: bool = False) -> None:
        """One raw file with these rows, in the partition of the first one's arrival."""
        rows = list(rows)
        if not rows:
            return
        folder = self.home / "lake" / "events" / partition(rows[0]["received_ms"])
        folder.mkdir(parents=True, exist_ok=True)
        self._files += 1
        name = f"{'history' if history else 'part'}-{self._files:06}.parquet"
        pq.write_table(table_of_rows(rows), folder / name)

    def stored(self) -> dict[str, Path]:
        """Every file of the lake that counts, and where it lies."""
        self.batch.tables.refresh()
        versions = self.batch.tables.versions
        return {path: self.home / "lake" / versions._found(path) for path in versions.list("")}

    def at(self, tick: int) -> None:
        """Set the clock to some seconds after a tick began."""
        self.time.now_ms = tick * TICK_MS + 5_000

    def night(self, tick: int) -> None:
        """Run the loading part of the nightly job."""
        self.at(tick)
        etl(self.batch, tick)

    def learn(self, tick: int, *, everything: bool = False) -> Manifest:
        """Run the learning part of a tick."""
        self.time.now_ms = tick * TICK_MS + 2_000
        batch = self.batch
        manifest = EventLoader(batch).run(tick, self.time.now_ms, everything=everything)
        day_state.ensure(batch, tick, manifest.run)
        return manifest

    def known(self) -> list[tuple[str, int]]:
        """Every clean event and the tick that it is known from."""
        table = self.batch.tables.clean(FIRST_DAY - 40, FIRST_DAY + 40)
        return sorted(zip(table["event_id"].to_pylist(), table["known_tick"].to_pylist(), strict=True))

    def catalogue(self) -> Catalogue:
        return catalogue.load(self.batch)

    def features(self, first_tick: int, last_tick: int) -> PointInTime:
        return PointInTime(self.batch, self.catalogue(), first_tick, last_tick)

    def decided(self, tick: int, user: str = "ada") -> dict[tuple[str, str], bool]:
        """By kind and target what the user had decided as of the tick, and whether it holds."""
        kinds = {"hide": "ping", "mute_topic": "value"}
        names = {kind: catalogue.ids_of(self.catalogue(), kind) for kind in ("ping", "creator", "value")}
        return {
            (one["kind"], names[kinds.get(one["kind"], "creator")][one["target"]]): bool(one["active"])
            for one in day_state.current(self.batch, "user_relations", tick).to_pylist()
            if one["user_id"] == user and one["target"]
        }

    def number(self, kind: str, name: str) -> int:
        return next(n for n, one in catalogue.ids_of(self.catalogue(), kind).items() if one == name)


def event_id(*parts: object) -> str:
    """A UUID that the parts determine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:]}"


_made = 0


def row(event_type: str, received_ms: int, **values: Any) -> Row:
    """An accepted event as a sink gets it; an id of its own unless given."""
    global _made
    _made += 1
    return {
        "event_id": event_id(_made),
        "event_type": event_type,
        "received_ms": received_ms,
        "timestamp_ms": received_ms,
        **{name: value for name, value in values.items() if value is not None},
    }


def like(tick: int, number: int = 0, user: str = "ada", ping: str = "p1", **values: Any) -> Row:
    """A like that arrived just before a tick; the number determines its id."""
    return row("like", tick * TICK_MS - 1, event_id=event_id(number), user_id=user, ping_id=ping, **values)


def error_line(record: bytes, **values: Any) -> bytes:
    """A line of a Firehose error object, as the documentation and observed objects have it; `values` has the codes."""
    error = {"attemptsMade": 1, "arrivalTimestamp": ARRIVED_MS, "rawData": base64.b64encode(record).decode(), **values}
    return json.dumps(error).encode() + b"\n"
