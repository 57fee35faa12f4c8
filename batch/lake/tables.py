"""The batch side's own tables in the lake: one folder a table, or a table and day; one file a run.

    clean/day=2026-11-22/run-<b>.parquet                 deduplicated events with their known tick
    aggregates/day=2026-11-22/<table>/run-<b>.parquet    measures for each (entity, known tick); states at day start
    catalogue/<table>/run-<b>.parquet                    pings' versions, numbers

`run-<b>` holds the rows that run b added (run number = tick * 100 + amendment). `whole-<b>` holds everything up to and
including that run: a compaction, or a state, which is always written whole. A reader uses the newest whole file and the
run files after it. The files have these names for whoever reads through `VersionedLake`, which stores them under names
of their own and shows what complete runs have written (`versions.py`).

Reads leave out the rows of deleted users, even before the nightly job has removed them (`ForgottenRows`). A damaged
file is quarantined and rebuilt from what it derives from (`Tables.damaged`).
"""

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from typing import Final, Protocol, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batch.lake.quarantine import Quarantine
from batch.lake.versions import VersionedLake
from batch.ticks import day_name, day_number, day_of_path
from pingfeed.core.arrow import EVENT_SCHEMA
from pingfeed.core.clock import Clock, system_clock
from pingfeed.core.errors import FormatError, NotFound, PingfeedError
from pingfeed.core.integrity import UNREADABLE
from pingfeed.ports import Lake

FORGOTTEN: Final = "forgotten"
"""The folder of deletion requests."""
_FILE: Final = re.compile(r"/(run|whole)-(\d+)\.parquet$")
_FILES_AT_ONCE: Final = 16
"""Parallel reads hide the latency of a remote lake."""
_T = TypeVar("_T")
_LOG = logging.getLogger(__name__)


_TEXTS: Final = frozenset(["user_id", "country", "language", "kind", "id", "event_id", "facet", "name"])
_RELATION: Final = "user_id kind target active country language interests tick at_ms received_ms seq event_id"


def _schema(columns: str, **types: pa.DataType) -> pa.Schema:
    """The schema of these columns: text if in `_TEXTS`, integers otherwise, unless `types` says more."""
    usual = {name: pa.string() if name in _TEXTS else pa.int64() for name in columns.split()}
    return pa.schema(list((usual | types).items()))


_REWARD: Final = "impressions points"
_FULL: Final = "impressions views watch_bp likes shares hides follows points"
_VERSION: Final = "ping known_tick event_id"
CLEAN: Final = EVENT_SCHEMA.append(pa.field("known_tick", pa.int64()))
AGGREGATES: Final[dict[str, pa.Schema]] = {
    "ping_buckets": _schema(f"ping tick {_FULL}"),
    "creator_buckets": _schema(f"creator tick {_FULL}"),
    "facet_value_buckets": _schema(f"value tick {_REWARD}"),
    "user_buckets": _schema("user_id tick impressions views watch_bp likes hides points country_at language_at"),
    "user_creator_buckets": _schema(f"user_id creator tick {_REWARD}"),
    "user_facet_buckets": _schema(f"user_id value tick {_REWARD}"),
    "user_ping_buckets": _schema("user_id ping tick impressions seen points"),
    "country_ping_buckets": _schema("country ping tick engagements"),
    "user_relation_buckets": _schema(_RELATION, interests=pa.list_(pa.string())),
}
"""Each is the result of the statement of that name in `batch/sql/` over a run's acts."""
STATES: Final[dict[str, pa.Schema]] = {
    "lifetime": _schema(f"ping {_REWARD}"),
    "user_relations": AGGREGATES["user_relation_buckets"],
}
"""One row a key as of the start of the day; the statement of that name carries the previous day forward."""
CATALOGUE: Final[dict[str, pa.Schema]] = {
    "numbers": _schema("kind id number"),
    "numbers_copy": _schema("kind id number"),
    "versions": _schema("ping creator known_tick received_ms seq event_id duration_ms country language by_user"),
    "facets": _schema(f"{_VERSION} facet position value"),
    "attributes": _schema(f"{_VERSION} name number", number=pa.float64()),
    "deletions": _schema("ping known_tick"),
}
"""Numbers are kept twice: nothing else in the lake could tell them."""
_SCHEMAS: Final = {"clean": CLEAN} | AGGREGATES | CATALOGUE


class ForgottenRows(Protocol):
    """Which rows belong to deleted users whose data the nightly job has yet to remove."""

    def __bool__(self) -> bool:
        """Whether any such users exist."""

    def among(self, user_ids: Iterable[str], clock: str, at: int) -> list[str]:
        """The users among these whose data as of `at`, in the unit of the column `clock`, are deleted."""

    def without(self, table: pa.Table, clock: str) -> pa.Table:
        """The table without their rows, by `user_id` and the column `clock`."""


class Tables:
    """Reads and writes these tables; days are numbers (`ticks.day_number`). `find_forgotten` reads `FORGOTTEN`."""

    def __init__(
        self, lake: Lake, find_forgotten: Callable[[Lake], ForgottenRows], clock: Clock = system_clock
    ) -> None:
        self.versions = VersionedLake(lake)
        self.lake: Lake = self.versions
        self._find_forgotten = find_forgotten
        self._pending: ForgottenRows | None = None
        self._clock = clock
        self._ignored: set[str] = set()
        self.rebuild: Callable[[str], bool] | None = None
        """Replaces a damaged file, False if there is nothing to rebuild it from; None in commands that only read."""

    def transaction(self) -> AbstractContextManager[None]:
        """Either all that is written inside is kept, or nothing."""
        return self.versions.transaction()

    def refresh(self) -> None:
        """Clear cached listings: files have landed, or another process has run."""
        self.versions.refresh()
        self._pending = None

    def pending(self, *, anew: bool = False) -> ForgottenRows:
        """Deleted users whose data still exist, as of the last `refresh`, or now if `anew`."""
        if anew:
            self.versions.refresh(FORGOTTEN)
        if anew or self._pending is None:
            self._pending = self._find_forgotten(self.lake)
        return self._pending

    def clean(
        self, first_day: int, last_day: int, columns: list[str] | None = None, until: int | None = None
    ) -> pa.Table:
        """Clean events whose known tick is in these days, both included; those that runs up to `until` have added."""
        return self._read(_folders("clean", first_day, last_day), CLEAN, columns, until)

    def aggregate(self, name: str, first_day: int, last_day: int, last_tick: int | None = None) -> pa.Table:
        """Buckets of these days, both included, up to `last_tick`."""
        table = self._read(_folders(name, first_day, last_day), AGGREGATES[name])
        return table if last_tick is None else table.filter(pc.field("tick") <= last_tick)

    def state(self, name: str, day: int) -> pa.Table:
        """A state as of the start of the day; empty if none was written."""
        return self._read(_folders(name, day, day), STATES[name])

    def state_days(self, name: str) -> list[int]:
        """The days that have this state, ascending."""
        return sorted({_day(path) for path in self.lake.list("aggregates") if f"/{name}/" in path})

    def catalogue(self, name: str) -> pa.Table:
        """A whole table of the catalogue."""
        return self._read([_folder(name)], CATALOGUE[name])

    def file(self, path: str, schema: pa.Schema) -> pa.Table | None:
        """A file of another table; None if it is absent or was damaged: the caller makes it anew."""
        if path not in self.lake.list(path.rpartition("/")[0]):
            return None
        try:
            return self.scan([path], schema, schema.names)
        except Exception:  # noqa: BLE001  # whatever is in the file
            self._examine([path], schema)
            return None

    def json(self, path: str, kind: type[_T]) -> _T | None:
        """A JSON file; None if it was damaged and could not be rebuilt."""
        return self.decoded(path, self.read(path), kind)

    def read(self, path: str) -> bytes:
        """A file's bytes; none for one that a version names and that is gone, which is damaged then."""
        try:
            return self.lake.read(path)
        except NotFound:
            return b""

    def decoded(self, path: str, data: bytes, kind: type[_T]) -> _T | None:
        """Like `json`, of a file's bytes."""
        try:
            return msgspec.json.decode(data, type=kind)
        except UNREADABLE as error:
            return self.json(path, kind) if self.damaged(path, error) else None

    def is_being_rebuilt(self, path: str) -> bool:
        """Whether a file is damaged and about to be replaced."""
        return path in self._ignored

    def damaged(self, path: str, error: Exception) -> bool:
        """Quarantine a damaged file and rebuild it, or delete it if that is impossible (False).

        The damaged file stays until it is replaced, so a crash in between loses nothing. A command that only reads, and
        a transaction, raise FormatError.
        """
        reason = f"{type(error).__name__}: {error}"
        if self.rebuild is None or self.versions.in_transaction or path in self._ignored:
            raise FormatError(f"{path} is damaged ({reason[:200]}); the next run of etl or tick repairs it") from error
        self._ignored.add(path)
        try:
            with suppress(NotFound):  # It may be gone altogether.
                Quarantine(self.lake, self._clock()).copy(path, reason)
            try:
                rebuilt = self.rebuild(path)
            except (PingfeedError, MemoryError):
                raise
            except Exception:  # noqa: BLE001  # what it derives from may be harmed too
                _LOG.exception("%s could not be rebuilt", path)
                rebuilt = False
            if not rebuilt:
                self.lake.delete(path)
        finally:
            self._ignored.discard(path)
        _LOG.error("%s was damaged and is %s", path, "rebuilt" if rebuilt else "removed")
        return rebuilt

    def clean_days(self) -> list[int]:
        """The days that have clean events, ascending."""
        return sorted({_day(path) for path in self.lake.list("clean")})

    def add(self, name: str, run: int, rows: pa.Table, day: int | None = None) -> None:
        """Add a run's rows to what it has already written: clean events or buckets of one day, or the catalogue's."""
        self._add(_folder(name, day), run, rows, _SCHEMAS[name])

    def put_state(self, name: str, day: int, run: int, rows: pa.Table) -> None:
        """Write the whole state of a day."""
        self.put(f"{_folder(name, day)}/whole-{run}.parquet", rows)

    def compact_day(self, day: int, run: int) -> None:
        """Compact each table of a day into one file. No run up to `run` may still be in progress."""
        for name in ("clean", *AGGREGATES):
            self._compact(_folder(name, day), run, _SCHEMAS[name])

    def compact_catalogue(self, run: int) -> None:
        """Compact each table of the catalogue into one file."""
        for name, schema in CATALOGUE.items():
            self._compact(_folder(name), run, schema)

    def keep_runs(self, is_finished: Callable[[int], bool]) -> None:
        """Leave out the files of all other runs: they crashed before the lake had versions."""
        for folder in ("clean", "aggregates", "catalogue"):
            for path in self.lake.list(folder):
                found = _FILE.search(path)
                if found and not is_finished(int(found[2])):
                    self.lake.delete(path)

    def drop_derived_since(self, day: int) -> None:
        """Remove data derived from this day, to which events were added: later states, features and training rows."""
        stale = [path for path in self.lake.list("aggregates") if any(f"/{name}/" in path for name in STATES)]
        stale = [path for path in [*stale, *self.lake.list("features")] if _day(path) > day]
        # The label windows of the day before reach into this one.
        stale += [path for path in self.lake.list("training") if _day(path) >= day - 1]
        for path in stale:
            self.lake.delete(path)

    def put(self, path: str, rows: pa.Table) -> None:
        """Write a whole file of a table."""
        schema = _schema_of(path)
        self.lake.write(path, parquet_of(rows.select(schema.names).cast(schema)))

    def _read(
        self, folders: Sequence[str], schema: pa.Schema, columns: list[str] | None = None, until: int | None = None
    ) -> pa.Table:
        columns = schema.names if columns is None else columns
        paths = [path for folder in folders for path in self._live(folder) if until is None or file_run(path) <= until]
        if not paths:
            return schema.empty_table().select(columns)
        clock = clock_of(schema)
        needed = {"user_id", "event_type", clock} & set(schema.names) if clock and self.pending() else set()
        try:
            table = self.scan(paths, schema, [*columns, *sorted(needed - set(columns))])
        except Exception:  # Arrow raises many types for a damaged file: only an intact one's error is ours to raise.
            if not self._examine(paths, schema):
                raise
            return self._read(folders, schema, columns, until)
        return self.pending().without(table, clock).select(columns) if clock and needed else table

    def _live(self, folder: str) -> list[str]:
        return _live([path for path in self.lake.list(folder) if path not in self._ignored])

    def scan(self, paths: Sequence[str], schema: pa.Schema, columns: list[str]) -> pa.Table:
        """The rows of these files; raises anything for a file that is damaged."""
        files = self.lake.dataset(paths, schema)
        with ThreadPoolExecutor(_FILES_AT_ONCE, "tables") as pool:
            for found in pool.map(lambda file: file.physical_schema, files.get_fragments()):
                _check_columns(found, schema)
        table: pa.Table = files.to_table(columns=columns, fragment_readahead=_FILES_AT_ONCE)
        table.validate(full=True)
        return table

    def check_since(self, day: int) -> None:
        """Read every file of the catalogue and of the days since `day`, and repair what is damaged."""
        for root in ("clean", "aggregates", "catalogue", "features", "training"):
            for path in self.lake.list(root):
                if root == "catalogue" or _day(path) >= day:
                    self._examine([path], None if root in ("features", "training") else _schema_of(path))

    def _examine(self, paths: Sequence[str], schema: pa.Schema | None) -> bool:
        """Read each file alone and repair what is damaged; False if none is. Raises Unavailable."""
        found: dict[str, Exception] = {}
        for path in paths:
            data = self.read(path)  # A disk or a store that fails is no damage of the file.
            try:
                table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
                table.validate(full=True)
                if schema is not None:
                    _check_columns(table.schema, schema)
                    for name in set(table.column_names) & set(schema.names):
                        table[name].cast(schema.field(name).type)
            except Exception as error:  # noqa: BLE001  # whatever is in the file
                found[path] = error
        for path, reason in found.items():
            self.damaged(path, reason)
        return bool(found)

    def _add(self, folder: str, run: int, rows: pa.Table, schema: pa.Schema) -> None:
        if not rows.num_rows:
            return
        path = f"{folder}/run-{run}.parquet"
        there = path in self.lake.list(folder)
        earlier = [self.lake.dataset([path], schema).to_table()] if there else []
        self.put(path, pa.concat_tables([*earlier, rows.select(schema.names).cast(schema)]))

    def _compact(self, folder: str, run: int, schema: pa.Schema) -> None:
        paths = self.lake.list(folder)
        if len(paths) < 2:
            return
        live = _live(paths)
        newest = max(file_run(path) for path in paths)
        whole = f"{folder}/whole-{newest}.parquet"
        if newest > run:
            return
        if live != [whole]:
            self.put(whole, self._read([folder], schema))
        for path in self.lake.list(folder):
            if path != whole:
                self.lake.delete(path)


def _folders(name: str, first: int, last: int) -> list[str]:
    return [_folder(name, day) for day in range(first, last + 1)]


def _folder(name: str, day: int | None = None) -> str:
    if day is None:
        return f"catalogue/{name}"
    return f"clean/day={day_name(day)}" if name == "clean" else f"aggregates/day={day_name(day)}/{name}"


def _schema_of(path: str) -> pa.Schema:
    """The schema of a table's file, by its folder."""
    return CLEAN if path.startswith("clean/") else (_SCHEMAS | STATES)[path.rsplit("/", 2)[1]]


def _check_columns(found: pa.Schema, schema: pa.Schema) -> None:
    """FormatError for the columns of another table; versions differ by added ones only, in either direction."""
    if not (set(found.names) <= set(schema.names) or set(found.names) >= set(schema.names)):
        raise FormatError(f"its columns are those of another table: {', '.join(found.names)[:200]}")


def parquet_of(table: pa.Table) -> bytes:
    """The bytes of a Parquet file."""
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    data: bytes = buffer.getvalue().to_pybytes()
    return data


def clock_of(schema: pa.Schema) -> str | None:
    """The time column that decides whether a deletion request covers a row; None for a table without users."""
    if "user_id" not in schema.names:
        return None
    return "received_ms" if "received_ms" in schema.names else "tick"


def _day(path: str) -> int:
    return day_number(day_of_path(path))


def file_run(path: str) -> int:
    """The run in the name of a table's file."""
    found = _FILE.search(path)
    assert found, f"{path} is not a file of a table"
    return int(found[2])


def _live(paths: list[str]) -> list[str]:
    """The newest whole file, and the run files after it."""
    whole = [path for path in paths if "/whole-" in path]
    newest = max(whole, key=file_run, default=None)
    since = -1 if newest is None else file_run(newest)
    later = sorted((p for p in paths if "/run-" in p and file_run(p) > since), key=file_run)
    return ([newest] if newest else []) + later
