"""Delete users: packet and signals at once, everything else in the nightly job.

The nightly job rewrites only files that hold a deleted user, each whole: raw files that runs have read, malformed rows
(`rejected/raw-*`), clean events, the user's aggregates and states, training rows. Rejected events are not searched;
they expire (`expiry.py`). Totals of pings, creators and countries hold no user and stay.

What leaves the raw files is first listed under `removed/` (`reconcile.py`). Every step can be repeated, so the next
nightly job finishes what a killed one began. For `ACTIVE_DAYS` after a request, nightly jobs also look for late events
in raw files that are not compacted yet; a run never learns from them (`EventLoader`).
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batch.lake.ledger import Ledger, is_compacted
from batch.lake.raw_files import PARQUET, READERS, UNREADABLE, documents_of, read_events
from batch.lake.tables import AGGREGATES, STATES, Tables, clock_of, parquet_of
from batch.lake.tombstones import DeletionRequest, DeletionRequests, Forgotten, hash_of, is_content
from batch.ops.export import find_events
from batch.ops.reconcile import KEYS, keys_of, put_removed
from batch.ops.rejected import is_raw, line_of
from batch.training.training_set import CLOCK as TRAINING_CLOCK
from batch.wiring import Batch
from pingfeed.core.clock import DAY_MS
from pingfeed.core.signals import UserState
from pingfeed.core.words import counted
from pingfeed.ports import Lake
from pingfeed.spool.stats import waiting_by_day

ACTIVE_DAYS: Final = 35
"""The longest that an event may be on its way: the 7 days of de-duplication, and an outage of four weeks."""
_CLOCK: Final = "received_ms"
_WHOSE: Final = pa.schema([("user_id", pa.string()), (_CLOCK, pa.int64())])
_LOG = logging.getLogger(__name__)


class Forgetting(msgspec.Struct, frozen=True):
    """What `forget_users` did."""

    users: int
    at_ms: int
    """Events received up to this moment will be removed."""
    packets: int
    """Users that had a packet."""
    signals: int
    """Users that had signals."""
    waiting: int
    """Events of all users in this machine's spools: a service that starts applies them to the signals again."""
    unknown: list[str] = []
    """Users without a packet, signals or events."""


@dataclass
class Removed:
    """What a nightly job removed."""

    users: int = 0
    events: int = 0
    """Rows and malformed rows that left the raw files."""
    files: int = 0
    """Files that were rewritten."""
    unreadable: list[str] = field(default_factory=list)


def forget_users(batch: Batch, users: Sequence[str]) -> Forgetting:
    """Store deletion requests, then remove packets and signals. May be repeated. Raises Unavailable.

    The requests come first: a tick that is running looks for them after it has stored its packets.
    """
    at_ms = batch.clock()
    batch.tables.refresh()
    requests = DeletionRequests(batch.tables.lake)
    for user_id in users:
        requests.add(DeletionRequest(hash=hash_of(user_id), at_ms=at_ms, tick=batch.ticks.of(at_ms) + 1))
    packets, signals = asyncio.run(_remove_served(batch, users, at_ms))
    unseen = [user_id for user_id in users if user_id not in packets | signals]
    known = find_events(batch, unseen)[0]["user_id"].to_pylist() if unseen else []
    unknown = sorted(set(unseen).difference(known))
    return Forgetting(len(users), at_ms, len(packets), len(signals), events_waiting(batch), unknown)


def events_waiting(batch: Batch) -> int:
    """How many events of all users wait in this machine's spools."""
    return sum(sum(days.values()) for days in waiting_by_day(batch.settings.spool_dir).values())


async def _remove_served(batch: Batch, users: Iterable[str], now_ms: int) -> tuple[set[str], set[str]]:
    """Remove packets and signals; the users that had some."""
    candidates, signals = batch.open_candidates(), batch.open_signals()
    packets, states = set(), set()
    try:
        for user_id in users:
            if await candidates.get(user_id, now_ms) is not None:
                packets.add(user_id)
            if (await signals.read(user_id, now_ms)).state != UserState():
                states.add(user_id)
            await candidates.delete(user_id)
            await signals.forget(user_id)
    finally:
        await candidates.close()
        await signals.close()
    return packets, states


def remove_forgotten(batch: Batch) -> Removed:
    """The nightly job's part, after the run has read what landed and before raw files are compacted."""
    batch.tables.pending(anew=True)
    requests = DeletionRequests(batch.tables.lake)
    pending, late = requests.pending(), requests.done_since(batch.clock() - ACTIVE_DAYS * DAY_MS)
    done = Removed(users=len({request.hash for request in pending}))
    if not pending and not late:
        return done
    forgotten = Forgotten([*pending, *late])
    with batch.progress.step(f"forgetting {counted(done.users, 'user')}"):
        known = Ledger(batch.tables, batch.ticks).known_runs()
        _clear_raw(batch.tables.lake, known, forgotten, done, everything=bool(pending))
        if pending:
            done.files += sum(_clear_table(batch.tables, *table, forgotten) for table in _tables())
            batch.tables.versions.commit()
            batch.tables.versions.sweep()  # What the rewritten files have replaced holds these users.
    for request in pending:
        request.unreadable = done.unreadable
        requests.finish(request)
    batch.tables.pending(anew=True)
    return done


def _clear_raw(lake: Lake, known: Iterable[str], forgotten: Forgotten, done: Removed, *, everything: bool) -> None:
    """Remove users from the raw files that runs have read; unless `everything`, only from those not compacted."""
    read = set(known)
    raw = [path for path in lake.list("events") if path in read or (everything and is_compacted(path))]
    raw += [path for path in lake.list("errors") if path in read]
    malformed = [path for path in lake.list("rejected") if is_raw(path)]
    held = _each(lambda path: _held(lake, path, forgotten, done), raw)
    held |= _each(lambda path: _held_lines(lake, path, forgotten), malformed)
    if held:
        gone = pa.concat_tables(held.values())
        done.events += gone.num_rows
        put_removed(lake, gone)
    for path in held:
        (_rewrite_lines if path.startswith("rejected/") else _rewrite_raw)(lake, path, forgotten)
    done.files += len(held)


def _each(look: Callable[[str], pa.Table | None], paths: list[str]) -> dict[str, pa.Table]:
    """What `look` finds in each file, several files at a time; None means that the file stays as it is."""
    with ThreadPoolExecutor(READERS, "forget") as pool:
        return {path: found for path, found in zip(paths, pool.map(look, paths), strict=True) if found is not None}


def _held(lake: Lake, path: str, forgotten: Forgotten, done: Removed) -> pa.Table | None:
    """The acceptances of deleted users in a raw file; None if it holds none of their data."""
    if path.endswith(".parquet") and not _may_hold(lake, path, forgotten):
        return None
    found = read_events(lake, [path])
    if found.left_out:
        done.unreadable.append(path)
        _LOG.error(
            "a raw file could not be searched for deleted users", extra={"path": path, "error": found.left_out[path]}
        )
        return None
    gone = forgotten.rows(found.rows, _CLOCK)
    if gone is None:
        mentioned = any(forgotten.mentioned_in(one.body, one.received_ms) for one in found.rejected)
        return KEYS.empty_table() if mentioned else None
    return found.rows.filter(pc.and_(gone, pc.invert(is_content(found.rows)))).select(KEYS.names)


def _may_hold(lake: Lake, path: str, forgotten: Forgotten) -> bool:
    """A cheap look at two columns; True where that fails, for a file may be something else than its name says."""
    try:
        return forgotten.rows(lake.dataset([path], _WHOSE).to_table(), _CLOCK) is not None
    except UNREADABLE:
        return True


def _rewrite_raw(lake: Lake, path: str, forgotten: Forgotten) -> None:
    """Write a file without deleted users: Parquet with its own columns, anything else as JSON lines of its rows.

    Malformed rows of the latter are dropped here: they are kept in `rejected/raw-*`.
    """
    data = lake.read(path)
    if data.startswith(PARQUET):
        lake.write(path, _without(data, forgotten, _CLOCK))
        return
    documents = documents_of(forgotten.without(read_events(lake, [path]).rows, _CLOCK))
    lake.write(path, b"".join(document + b"\n" for document in documents) or b"\n")


def _without(data: bytes, forgotten: Forgotten, clock: str) -> bytes:
    """A Parquet file without deleted users; schema and metadata stay."""
    table = pq.read_table(pa.BufferReader(data))
    return parquet_of(forgotten.without(table, clock).replace_schema_metadata(table.schema.metadata))


def _held_lines(lake: Lake, path: str, forgotten: Forgotten) -> pa.Table | None:
    lines = [line for data in lake.read(path).splitlines() if (line := line_of(data))]
    gone = [line.body for line in lines if forgotten.mentioned_in(line.body, line.received_ms)]
    return keys_of(gone) if gone else None


def _rewrite_lines(lake: Lake, path: str, forgotten: Forgotten) -> None:
    lines = [(data, line_of(data)) for data in lake.read(path).splitlines(keepends=True)]
    kept = [data for data, line in lines if line and not forgotten.mentioned_in(line.body, line.received_ms)]
    if kept:
        lake.write(path, b"".join(kept))
    else:
        lake.delete(path)


def _tables() -> Iterator[tuple[str, str, str]]:
    """Tables with users in them: folder, part of the path, and the column that tells which rows are covered."""
    yield "clean", "", _CLOCK
    yield "training", "", TRAINING_CLOCK
    for name, schema in (AGGREGATES | STATES).items():
        if clock := clock_of(schema):
            yield "aggregates", f"/{name}/", clock


def _clear_table(tables: Tables, root: str, part: str, clock: str, forgotten: Forgotten) -> int:
    """Remove users from the files of a table; how many files were rewritten. A damaged one is rebuilt without them."""
    lake, schema = tables.lake, pa.schema([("user_id", pa.string()), (clock, pa.int64())])
    damaged: dict[str, Exception] = {}

    def look(path: str) -> pa.Table | None:
        try:
            return forgotten.rows(lake.dataset([path], schema).to_table(), clock)
        except UNREADABLE as error:
            damaged[path] = error
            return None

    held = _each(look, [path for path in lake.list(root) if part in path])
    for path in held:
        lake.write(path, _without(lake.read(path), forgotten, clock))
    for path, error in damaged.items():
        tables.damaged(path, error)
    return len(held)
