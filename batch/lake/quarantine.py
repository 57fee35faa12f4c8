"""What a step could not take, with the reason: `quarantine/day=YYYY-MM-DD/<digest>.json`, kept for `REJECTED_DAYS`.

    {"step": "load", "what": "1 of 50 rows", "reason": "...", "rows": 1, "at_ms": 1795348800000, "bodies": ["{..}"]}

A run goes on without it. `bodies` has quarantined rows as JSON documents. The same thing found again on the same day is
the same file.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator

import msgspec
import pyarrow as pa

from batch.lake.raw_files import documents_of
from pingfeed.core.clock import day_of
from pingfeed.core.errors import PingfeedError
from pingfeed.core.words import counted
from pingfeed.ports import Lake

QUARANTINE = "quarantine"
_MAX_PIECES = 64
"""Bad rows that are looked for one by one; where more fail, whole pieces are quarantined."""
_LOG = logging.getLogger(__name__)


class Quarantined(msgspec.Struct, kw_only=True, frozen=True):
    """Something that a step could not take."""

    step: str
    what: str
    reason: str
    at_ms: int
    rows: int = 0
    bodies: list[str] = []


class Quarantine:
    """Stores what steps could not take, and counts it for the run's manifest."""

    def __init__(self, lake: Lake, now_ms: int) -> None:
        self._lake, self._now_ms = lake, now_ms
        self.rows = 0

    def put(self, step: str, what: str, reason: str, rows: pa.Table | None = None) -> None:
        """Store one thing. A store that is down is no reason to go on: Unavailable."""
        bodies = [] if rows is None else [body.decode("utf-8", "replace") for body in documents_of(rows)]
        self.rows += len(bodies)
        found = Quarantined(
            step=step, what=what, reason=reason[:2000], at_ms=self._now_ms, rows=len(bodies), bodies=bodies
        )
        name = hashlib.blake2b(f"{step}\n{what}\n{bodies}".encode(), digest_size=12).hexdigest()
        self._lake.write(f"{QUARANTINE}/day={day_of(self._now_ms)}/{name}.json", msgspec.json.encode(found))
        _LOG.error("quarantined", extra={"step": step, "what": what, "reason": reason[:200], "rows": len(bodies)})

    def each(self, step: str, rows: pa.Table, take: Callable[[pa.Table], None]) -> None:
        """`take` the rows; if that fails, the halves, and so on: rows that fail alone are quarantined.

        `take` must have no effect where it raises. Errors that a retry may cure, and our own, are raised.
        """
        left = _MAX_PIECES
        waiting = [rows]
        while waiting:
            piece = waiting.pop()
            try:
                take(piece)
            except (PingfeedError, MemoryError):
                raise
            except Exception as error:  # noqa: BLE001  # whatever a row does to a step, the others go on
                if piece.num_rows == 1 or not left:
                    left = max(0, left - 1)
                    share = f"{piece.num_rows:,} of {counted(rows.num_rows, 'row')}"
                    self.put(step, share, f"{type(error).__name__}: {error}", piece)
                else:
                    half = piece.num_rows // 2
                    waiting += [piece.slice(half), piece.slice(0, half)]


def quarantined(lake: Lake) -> Iterator[Quarantined]:
    """Everything that is quarantined, newest day first."""
    for path in reversed(lake.list(QUARANTINE)):
        yield msgspec.json.decode(lake.read(path), type=Quarantined)
