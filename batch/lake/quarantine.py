"""What a step could not take, with the reason: `quarantine/day=YYYY-MM-DD/<digest>.json`, kept for `REJECTED_DAYS`.

    {"step": "load", "what": "1 of 50 rows", "reason": "...", "rows": 1, "at_ms": 1795348800000, "bodies": ["{..}"]}

A run goes on without it: a row, a group of training rows, a user's packet, a file. `bodies` has quarantined rows as
JSON documents; a damaged file is copied to `<digest>.damaged`. The same thing found again on the same day is the same
file.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec
import pyarrow as pa

from batch.lake.raw_files import documents_of
from pingfeed.core.clock import day_of
from pingfeed.core.errors import Busy, PingfeedError
from pingfeed.core.integrity import UNREADABLE
from pingfeed.core.words import counted
from pingfeed.ports import Lake

QUARANTINE = "quarantine"
_MAX_PIECES = 64
"""Bad rows that are looked for one by one; where more fail, whole pieces are quarantined."""
_T = TypeVar("_T")
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
    """Stores what steps could not take (`rows` counts it). A store that is down is no reason to go on: Unavailable."""

    def __init__(self, lake: Lake, now_ms: int) -> None:
        self._lake, self._now_ms = lake, now_ms
        self.rows = 0

    def copy(self, path: str, reason: str) -> None:
        """Store a copy of a damaged file. Raises Unavailable."""
        name = self._note(Quarantined(step="read", what=path, reason=reason, at_ms=self._now_ms))
        self._lake.write(f"{name}.damaged", self._lake.read(path))

    def _note(self, found: Quarantined) -> str:
        """Write a note and return its path without `.json`."""
        digest = hashlib.blake2b(f"{found.step}\n{found.what}\n{found.bodies}".encode(), digest_size=12).hexdigest()
        name = f"{QUARANTINE}/day={day_of(self._now_ms)}/{digest}"
        short = msgspec.structs.replace(found, reason=found.reason[:2000])
        self._lake.write(f"{name}.json", msgspec.json.encode(short))
        _LOG.error("quarantined: %s, %s: %s", found.step, found.what, found.reason[:200])
        return name

    def each(
        self,
        step: str,
        items: Any,
        take: Callable[[Any], _T],
        *,
        name: Callable[[Any], str] | None = None,
        raises: type[PingfeedError] = PingfeedError,
    ) -> list[_T]:
        """What `take` makes of the items; where that fails, of the halves, and so on: one that fails alone is left out.

        The items are rows of a table, or a list whose entries have a `name`. `take` must have no effect where it
        raises. Errors that a retry may cure (`raises`) are raised.
        """
        taken: list[_T] = []
        left, waiting = _MAX_PIECES, [items]
        while waiting:
            piece = waiting.pop()
            try:
                taken.append(take(piece))
            except (raises, Busy, MemoryError):
                raise
            except Exception as error:  # noqa: BLE001  # whatever one of them does to a step, the others go on
                if len(piece) == 1 or not left:
                    left = max(0, left - 1)
                    of = f"{len(piece):,} of {counted(len(items), 'row')}"
                    of = of if name is None else ", ".join(map(name, piece[:5]))
                    self._leave_out(step, of, f"{type(error).__name__}: {error}", piece)
                else:
                    half = len(piece) // 2
                    waiting += [piece[half:], piece[:half]]
        return taken

    def _leave_out(self, step: str, what: str, reason: str, piece: Any) -> None:
        rows = documents_of(piece) if isinstance(piece, pa.Table) else []
        bodies = [body.decode("utf-8", "replace") for body in rows]
        count = len(piece)
        self.rows += count
        self._note(Quarantined(step=step, what=what, reason=reason, at_ms=self._now_ms, rows=count, bodies=bodies))


def quarantined(lake: Lake) -> Iterator[Quarantined]:
    """Everything that is quarantined, newest day first."""
    for path in reversed(lake.list(QUARANTINE)):
        if path.endswith(".json"):
            try:
                yield msgspec.json.decode(lake.read(path), type=Quarantined)
            except UNREADABLE as error:
                yield Quarantined(step="read", what=path, reason=str(error), at_ms=0)
