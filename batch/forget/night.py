"""The night removes what forgotten users left in the lake: under the lease, before files are compacted.

Everything is looked at for a user who waits for it: raw files that runs have read, refused events, and, of the tables,
clean events, users' buckets and states, and training rows. What was summed without a user (pings, creators, countries)
stays as it is. Only a file that holds a forgotten user is written anew, under its own name, whole.

Latecomers: for `ACTIVE_DAYS` more, nights look at the raw files that are not compacted yet and at those that were read
since, and at refused events, which a service may ship late. A file that no run has read is left to the next night; what
runs learn never holds the rows (`learn.py`).

The night counts first: a note (`tombstones.py`) says which acceptances it is about to take out of which raw files, then
the files are written, then the note says that it is done. A night that died is repeated, and counts no file twice. A
row that was counted is counted again only if the sink delivers it once more in another file.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from batch.forget import raw_rows, rejected_lines
from batch.forget.forgotten import Forgotten, Pending
from batch.forget.rejected_lines import Acceptance
from batch.forget.tombstones import Tombstone, Tombstones, hash_of
from batch.lake.ledger import Ledger, Manifest, is_compacted
from batch.lake.raw_files import READERS, UNREADABLE
from batch.lake.tables import AGGREGATES, CLEAN, STATES, clock_of
from batch.rejected_files import folder_of
from batch.training.training_set import CLOCK as TRAINING_CLOCK
from batch.wiring import Batch
from pingfeed.core.clock import DAY_MS, day_of

ACTIVE_DAYS: Final = 35
"""The longest that an event may be on its way: the week in which duplicates are known, and an outage of four weeks."""
_END_MS: Final = 253_402_300_800_000
"""The year 10000: no day of arrival is named by what claims a later moment."""
_LOG = logging.getLogger(__name__)


@dataclass
class Forgetting:
    """What a night removed."""

    users: int = 0
    """Users who waited for it."""
    events: int = 0
    """Acceptances that left the raw files."""
    refused: int = 0
    """Lines that left the refused events."""
    files: int = 0
    """Files that were written anew."""
    unreadable: list[str] = field(default_factory=list)
    """Raw files that could not be looked at."""


def run(batch: Batch, manifest: Manifest) -> Forgetting:
    """Remove what is to go, when a night's run has learned what landed. Raises Unavailable: the next night goes on."""
    batch.tables.pending(anew=True)
    notes = Tombstones(batch.tables.lake)
    pending, late = notes.pending(), notes.done_since(batch.clock() - ACTIVE_DAYS * DAY_MS)
    done = Forgetting(users=len({stone.hash for stone in pending}))
    if pending or late:
        _Night(batch, manifest, notes, pending, late, done).run()
        batch.tables.pending(anew=True)
    return done


class _Night:
    def __init__(
        self,
        batch: Batch,
        manifest: Manifest,
        notes: Tombstones,
        pending: list[Tombstone],
        late: list[Tombstone],
        done: Forgetting,
    ) -> None:
        self._batch, self._lake, self._run = batch, batch.tables.lake, manifest.run
        self._notes, self._pending, self._late, self._done = notes, pending, late, done
        self._stones = sorted([*late, *pending], key=lambda stone: stone.at_ms)
        self._forgotten = Pending.of(self._stones)
        self._runs = Ledger(batch.tables, batch.ticks).known_runs()

    def run(self) -> None:
        with self._batch.progress.step(f"forgetting {self._done.users:,} users: raw files"):
            held = self._held(self._raw_paths())
            self._count(held | self._held_elsewhere())
            self._each(lambda path: raw_rows.remove(self._lake, path, self._forgotten.by_ms), held)
        with self._batch.progress.step("forgetting: refused events"):
            root = folder_of(self._batch.settings)
            for path in self._lake.list("rejected"):
                self._done.refused += rejected_lines.remove(self._lake, root, path, self._forgotten.by_ms)
        if self._pending:
            with self._batch.progress.step("forgetting: tables"):
                for folder, clock in self._tables().items():
                    self._clear(folder, clock)
        self._finish()

    def _raw_paths(self) -> list[str]:
        """Raw files to look at: all that were read, or those that may hold latecomers."""
        paths = [path for path in self._lake.list("events") if path in self._runs or is_compacted(path)]
        paths += [path for path in self._lake.list("errors") if path in self._runs]
        if self._pending:
            return paths
        since = min(stone.run or 0 for stone in self._late)
        return [path for path in paths if not is_compacted(path) and (self._is_loose(path) or self._runs[path] > since)]

    def _is_loose(self, path: str) -> bool:
        """Whether a sink that did not note its arrival may send the file again, as it was."""
        return path.startswith("events/") and not path.rpartition("/")[2].startswith("history-")

    def _held(self, paths: Sequence[str]) -> dict[str, list[Acceptance]]:
        """Raw files that hold forgotten users, with the acceptances that are to go."""
        found: dict[str, list[Acceptance]] = {}
        with ThreadPoolExecutor(READERS, "forget") as pool:
            looks = [(path, pool.submit(raw_rows.held, self._lake, path, self._forgotten.by_ms)) for path in paths]
            for path, look in looks:
                try:
                    gone = look.result()
                except UNREADABLE as error:
                    self._done.unreadable.append(path)
                    _LOG.error("a raw file could not be looked at", extra={"path": path, "error": str(error)})
                    continue
                if gone is not None:
                    found[path] = gone
        return found

    def _held_elsewhere(self) -> dict[str, list[Acceptance]]:
        """The same of rows that are no rows, whose sources may be compacted."""
        looks = ((p, rejected_lines.held(self._lake, p, self._forgotten.by_ms)) for p in self._lake.list("rejected"))
        return {path: gone for path, gone in looks if gone}

    def _count(self, held: dict[str, list[Acceptance]]) -> None:
        """Note what is about to leave which files."""
        newest = {stone.hash: stone for stone in self._stones}
        news: dict[str, set[Acceptance]] = {}
        for path, gone in held.items():
            for acceptance in gone:
                stone = newest[hash_of(acceptance[0])]
                if self._is_news(stone, path):
                    news.setdefault(stone.hash, set()).add(acceptance)
        for hashed, acceptances in news.items():
            stone = newest[hashed]
            days = Counter(day_of(received_ms) for _, _, received_ms in acceptances if 0 <= received_ms < _END_MS)
            stone.removed = dict(sorted((Counter(stone.removed) + days).items()))
            stone.counted = sorted({*stone.counted, *held})
            self._done.events += len(acceptances)
            self._notes.keep(stone)

    def _is_news(self, stone: Tombstone, path: str) -> bool:
        """Whether what the file holds of the user was not counted yet."""
        return path not in stone.counted and (stone.done_ms is None or self._runs.get(path, -1) > (stone.run or 0))

    def _tables(self) -> dict[str, str]:
        """The part of a path that names a table with users in it, with its clock."""
        schemas = AGGREGATES | STATES
        clocks = {f"/{name}/": clock for name, schema in schemas.items() if (clock := clock_of(schema))}
        return {"clean/": clock_of(CLEAN) or "", **clocks, "training/": TRAINING_CLOCK}

    def _clear(self, table: str, clock: str) -> None:
        """Remove the rows of whoever waits from a table's files."""
        root = table if not table.startswith("/") else "aggregates"
        forgotten = Pending.of(self._pending).of_clock(clock)
        schema = pa.schema([("user_id", pa.string()), (clock, pa.int64())])
        paths = [path for path in self._lake.list(root) if table in path or root == table]
        with ThreadPoolExecutor(READERS, "forget") as pool:
            read = pool.map(lambda path: self._lake.dataset([path], schema).to_table(), paths)
            holding = [p for p, rows in zip(paths, read, strict=True) if forgotten.rows(rows, clock) is not None]
        self._each(lambda path: self._lake.write(path, _without(self._lake.read(path), forgotten, clock)), holding)

    def _each(self, write: Callable[[str], None], paths: Iterable[str]) -> None:
        for path in paths:
            write(path)
            self._done.files += 1

    def _finish(self) -> None:
        for stone in [*self._pending, *(late for late in self._late if late.counted)]:
            if stone.done_ms is None:
                stone.done_ms, stone.run = self._batch.clock(), self._run
                stone.unreadable = self._done.unreadable
            stone.counted = []
            self._notes.keep(stone)


def _without(data: bytes, forgotten: Forgotten, clock: str) -> bytes:
    return raw_rows.without_rows(data, forgotten, clock)
