"""Reconcile what was accepted with what is in the lake, by UTC day of arrival.

    accepted  = spooled + delivered + lost        spool stats: published as accounts/*.json, or read from this machine
    delivered = landed + removed + missing - lost the raw files, read anew each time

An acceptance is a (`user_id`, `event_id`, `received_ms`). It has landed if it is in a raw file under `events/` (except
`history-*`, which was never accepted) or `errors/`, or in `rejected/day=/raw-*`, which keeps malformed rows after their
file is compacted. What `pingfeed forget` removed is listed without user ids:

    removed/day=2026-11-22/<digest>.parquet       event (a hash of user and event id), received_ms

Spool stats are read before the lake and removals after it, so events that move meanwhile are never reported missing.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from batch.lake.raw_files import each_events
from batch.lake.tables import parquet_of
from batch.ops.rejected import is_raw, lines_in
from batch.ticks import day_name, day_number, day_of_path
from pingfeed.core.clock import DAY_MS, to_iso
from pingfeed.core.errors import NotFound
from pingfeed.core.integrity import UNREADABLE
from pingfeed.core.words import counted
from pingfeed.ports import Lake
from pingfeed.spool.checkpoint import FILE, KEPT_DAYS
from pingfeed.spool.stats import SpoolStats, stats_of

_TRIES: Final = 3
FIREHOSE_BUFFER_MS: Final = 15 * 60_000
"""The longest buffering interval of a Firehose stream."""
_LAST_DAY: Final = day_number("9999-12-31")
KEYS: Final = pa.schema([("user_id", pa.string()), ("event_id", pa.string()), ("received_ms", pa.int64())])
_HASHED: Final = pa.schema([("event", pa.uint64()), ("received_ms", pa.int64())])
_HASH: Final = "md5_number_lower(coalesce(user_id, '') || chr(0) || event_id)"
_ADD: Final = f"""
    INSERT INTO seen SELECT received_ms // {DAY_MS}, %s, received_ms, $place
    FROM keys WHERE received_ms >= $first_ms AND received_ms < $end_ms
"""  # noqa: S608
_RAW, _REJECTED, _REMOVED = 0, 1, 2
_COUNT: Final = f"""
    SELECT day, count(*) FILTER (place < {_REMOVED}), count(*) FILTER (place = {_REMOVED}),
        CAST(sum(copies) AS BIGINT) - count(DISTINCT event) FILTER (copies > 0)
    FROM (
        SELECT day, event, received_ms, min(place) AS place, count(*) FILTER (place = {_RAW}) AS copies
        FROM seen GROUP BY ALL
    ) GROUP BY day
"""  # noqa: S608
_TORN: Final = {name: re.compile(rf'"{name}":\s*"([^"\\]*)"') for name in ("user_id", "event_id")}
_RECEIVED: Final = re.compile(r'"received_ms":\s*(\d{1,18})\b')


class Counts(msgspec.Struct, frozen=True):
    """One day of arrival, as `pingfeed reconcile --json` prints it; `short` names partitions with missing events."""

    day: str
    accepted: int
    spooled: int
    delivered: int
    landed: int
    duplicates: int
    missing: int
    short: list[str]


class Reconciled(msgspec.Struct, frozen=True):
    """A day's counts, and what explains them."""

    counts: Counts
    removed: int
    """Acceptances that were removed because a user was deleted."""
    spools: list[SpoolStats]
    """Spools with events of that day."""
    expired: bool
    """Whether the day's raw events may have been removed as too old: then none is missing."""
    lost: int = 0
    """Of those missing, events that were lost with a spool's file before they were delivered."""


class Report(msgspec.Struct, frozen=True):
    """Several days, oldest first, and files that could not be read, with the reason: their events count as missing."""

    days: list[Reconciled]
    unreadable: dict[str, str]


def reconcile(lake: Lake, spool_dir: Path, days: Sequence[str], now_ms: int, *, raw_days: int = 0) -> Report:
    """Reconcile consecutive days, oldest first. Read-only, needs no lease. Raises FormatError, Unavailable.

    `raw_days` is how long raw events are kept; 0 means for ever.
    """
    for attempt in range(1, _TRIES + 1):
        try:
            return _reconcile(lake, spool_dir, days, now_ms, raw_days)
        except NotFound:  # The nightly job compacted a file that was listed a moment ago.
            if attempt == _TRIES:
                raise
    raise AssertionError("unreachable")


def days_until(day: str, count: int) -> list[str]:
    """The `count` days that end with `day`, oldest first."""
    last = day_number(day)
    return [day_name(number) for number in range(last - count + 1, last + 1)]


def put_removed(lake: Lake, acceptances: pa.Table) -> None:
    """List acceptances (columns of `KEYS`) as removed. Listing them again changes nothing."""
    days = f"SELECT received_ms // {DAY_MS} AS day, {_HASH} AS event, received_ms FROM keys ORDER BY ALL"  # noqa: S608
    with duckdb.connect() as db:
        db.execute("SET enable_progress_bar = false")
        hashed: pa.Table = db.register("keys", acceptances.select(KEYS.names)).sql(days).to_arrow_table()
    for day in pc.unique(hashed["day"]).to_pylist():
        if 0 <= day <= _LAST_DAY:
            data = parquet_of(hashed.filter(pc.equal(hashed["day"], day)).select(_HASHED.names))
            lake.write(f"removed/day={day_name(day)}/{hashlib.blake2b(data, digest_size=12).hexdigest()}.parquet", data)


def keys_of(documents: Iterable[str]) -> pa.Table:
    """The acceptances that malformed rows stand for: those that name an id and a time, as far as can be seen."""
    keys = [key for key in map(_key_of, documents) if key and -(1 << 63) <= key[2] < 1 << 63]
    return pa.Table.from_pylist([dict(zip(KEYS.names, key, strict=True)) for key in keys], schema=KEYS)


def raw_folder(day: str) -> str:
    """The partition of raw events of a UTC day of arrival."""
    year, month, number = day.split("-")
    return f"events/year={year}/month={month}/day={number}"


def _reconcile(lake: Lake, spool_dir: Path, days: Sequence[str], now_ms: int, raw_days: int) -> Report:
    spools = _spools(lake, spool_dir, now_ms)
    first, last = day_number(days[0]), day_number(days[-1])
    landed = _Landed(lake, first, last)
    # Firehose files by its own clock: perhaps the day before (its clock is behind), or any day until the delivery.
    delivered = [stats.days[day].delivered_ms // DAY_MS for stats in spools for day in days if day in stats.days]
    landed.read(range(first - 1, max([last, *delivered]) + 2))
    counts = landed.counts()
    first_kept = now_ms // DAY_MS - raw_days if raw_days else first
    found = [_day(day, spools, counts.get(day_number(day), (0, 0, 0)), day_number(day) < first_kept) for day in days]
    return Report(found, landed.unreadable)


def _day(day: str, known: list[SpoolStats], found: tuple[int, int, int], expired: bool) -> Reconciled:
    landed, removed, duplicates = found
    spools = [stats for stats in known if day in stats.days or day in stats.spooled]
    spooled = sum(stats.spooled.get(day, 0) for stats in spools)
    delivered = sum(stats.days[day].delivered for stats in spools if day in stats.days)
    lost = sum(stats.days[day].lost for stats in spools if day in stats.days)
    missing = 0 if expired else max(0, delivered - landed - removed) + lost
    short = [raw_folder(day)] if missing > lost else []
    counts = Counts(day, spooled + delivered + lost, spooled, delivered, landed, duplicates, missing, short)
    return Reconciled(counts, removed, spools, expired, lost)


def _spools(lake: Lake, spool_dir: Path, now_ms: int) -> list[SpoolStats]:
    """The stats of every spool, by service and id; a spool on this machine is read directly, which is fresher."""
    published = [SpoolStats.of(lake.read(path), path) for path in lake.list("accounts")]
    own = filter(None, [stats_of(file.parent, now_ms) for file in spool_dir.rglob(FILE)])
    found = {stats.spool_id: stats for stats in (*published, *own)}
    return sorted(found.values(), key=lambda stats: (stats.service, stats.spool_id))


class _Landed:
    """Counts what arrived on the days `first` to `last` (numbers). Memory holds a file, and a hash a row in DuckDB."""

    def __init__(self, lake: Lake, first: int, last: int) -> None:
        self._lake = lake
        self._bounds = {"first_ms": first * DAY_MS, "end_ms": (last + 1) * DAY_MS}
        self._db = duckdb.connect(config={"threads": 2, "memory_limit": "1GB"})
        self._db.execute("SET enable_progress_bar = false")
        self._db.execute("CREATE TABLE seen (day BIGINT, event UBIGINT, received_ms BIGINT, place TINYINT)")
        self.unreadable: dict[str, str] = {}

    def read(self, partitions: Iterable[int]) -> None:
        """Read partitions, then what was removed. Raises Unavailable, and NotFound for a file that went meanwhile."""
        lake, names = self._lake, [day_name(day) for day in partitions]
        raw = [path for day in names for path in lake.list(raw_folder(day)) if "/history-" not in path]
        errors = [path for path in lake.list("errors") if day_of_path(path) in names]
        for found in each_events(lake, chain(raw, errors)):
            self.unreadable |= found.left_out
            self._add(found.rows.select(KEYS.names), _RAW)
            self._add(keys_of(one.body for one in found.rejected), _RAW)
        rejected = (path for day in names for path in lake.list(f"rejected/day={day}") if is_raw(path))
        for path in rejected:
            self._add(keys_of(line.body for line in lines_in(lake, path)), _REJECTED)
        removed = [path for day in names for path in lake.list(f"removed/day={day}")]
        if removed:
            self._add(lake.dataset(removed, _HASHED).to_table(), _REMOVED, event="event")

    def counts(self) -> dict[int, tuple[int, int, int]]:
        """Day to (landed, removed, duplicates)."""
        return {day: (landed, removed, twice) for day, landed, removed, twice in self._db.execute(_COUNT).fetchall()}

    def _add(self, keys: pa.Table, place: int, event: str = _HASH) -> None:
        if keys.num_rows:
            self._db.register("keys", keys)
            self._db.execute(_ADD % event, {**self._bounds, "place": place})


def _key_of(document: str) -> tuple[str | None, str, int] | None:
    try:
        found: Any = msgspec.json.decode(document.encode())
    except UNREADABLE:
        # A piece of a row that was too large for one record: the first piece has the id and the time.
        user, event, received = (pattern.search(document) for pattern in (*_TORN.values(), _RECEIVED))
        return (user[1] if user else None, event[1], int(received[1])) if event and received else None
    if not isinstance(found, dict) or type(found.get("received_ms")) is not int:
        return None
    user_id, event_id = (value if isinstance(value, str) else None for value in map(found.get, _TORN))
    return user_id, event_id or document, found["received_ms"]  # Without an id, its bytes tell it apart.


def sentences(report: Report, now_ms: int, *, firehose: bool) -> Iterator[str]:
    """What the numbers of each day mean; then the files that cannot be read."""
    for found in report.days:
        yield f"{found.counts.day}: {_sentence(found, now_ms, firehose=firehose)}"
    if report.unreadable:
        shown = "; ".join(f"{path}: {reason}" for path, reason in list(report.unreadable.items())[:3])
        yield f"Unreadable files: {len(report.unreadable):,}. Their events do not count as landed. {shown}"


def _sentence(found: Reconciled, now_ms: int, *, firehose: bool) -> str:
    c = found.counts
    if not found.spools:
        return f"no spool has stats for this day (kept for {KEPT_DAYS} days); events in the lake: {c.landed:,}."
    if found.expired:
        return "raw events of this day are older than PINGFEED_RAW_DAYS and may have been removed."
    beyond = c.landed + found.removed - c.delivered
    surplus = f" {beyond:,} more landed than spools report: just delivered, or by a spool without stats." * (beyond > 0)
    if not c.missing:
        return f"nothing is missing.{surplus}"
    lost = counted(found.lost, "accepted event is", "accepted events are")
    gone = f"{lost} missing: their spool's file was removed or damaged." if found.lost else ""
    if c.missing == found.lost:
        return f"{gone}{surplus}"
    others = counted(c.missing - found.lost, "delivered event is", "delivered events are")
    said = f"{gone} {others} missing from {c.short[0]}".lstrip()
    if not firehose:
        return f"{said}: restore its files."
    until_ms = max(s.days[c.day].delivered_ms for s in found.spools if c.day in s.days) + FIREHOSE_BUFFER_MS
    if now_ms < until_ms:
        return f"{said}: Firehose may still buffer them, until {to_iso(until_ms)}."
    return f"{said}: Firehose accepted them, but neither this partition, a later one nor errors/ has them."
