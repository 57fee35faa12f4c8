"""Old raw and refused events go: the lake's partitions of more than so many days ago (`raw_days`, `rejected_days`).

What lies among the refused events and is of the raw zone (`raw-*`) is all that is left of an accepted event once its
source is compacted: it is kept as long as raw events.

A raw file goes only if a run has read it (what was learned of it stays), never one that waits to be read, however old.
Compactions' manifests go with the last of their day's files. What the ledger knows it knows for good: a file that
somebody puts back is not read again.
"""

import re
from dataclasses import dataclass
from typing import Final

from batch.accounting.refused import is_of_raw_zone
from batch.lake.ledger import Ledger, is_compacted
from batch.ticks import day_name
from batch.wiring import Batch

_DAY: Final = re.compile(r"/(?:year=(\d{4})/month=(\d{2})/)?day=(?:(\d{4}-\d{2})-)?(\d{2})/")


@dataclass(frozen=True)
class Expired:
    """How many files went."""

    raw: int
    rejected: int


def expire(batch: Batch, today: int) -> Expired:
    """Remove what is too old on day `today`; a number of 0 days keeps it for ever."""
    chosen = batch.settings
    raw = _raw(batch, day_name(today - chosen.raw_days)) if chosen.raw_days else 0
    rejected = _rejected(batch, today, chosen.rejected_days) + _rejected(batch, today, chosen.raw_days, of_raw=True)
    return Expired(raw, rejected)


def _rejected(batch: Batch, today: int, days: int, *, of_raw: bool = False) -> int:
    """Remove refused events, those of the raw zone or those that clients sent; how many files went."""
    old = _older(batch, "rejected", day_name(today - days)) if days else []
    old = [path for path in old if is_of_raw_zone(path) == of_raw]
    for path in old:
        batch.tables.lake.delete(path)
    return len(old)


def _raw(batch: Batch, first_kept: str) -> int:
    old = [path for folder in ("events", "errors") for path in _older(batch, folder, first_kept)]
    if old:
        known = Ledger(batch.tables, batch.ticks).known_runs()
        old = [path for path in old if path in known or is_compacted(path)]
    for path in old:
        batch.tables.lake.delete(path)
    left = {_day(path) for path in _older(batch, "events", first_kept)}
    for manifest in _older(batch, "compactions", first_kept):
        if _day(manifest) not in left:
            batch.tables.lake.delete(manifest)
    return len(old)


def _older(batch: Batch, folder: str, first_kept: str) -> list[str]:
    return [path for path in batch.tables.lake.list(folder) if "" < _day(path) < first_kept]


def _day(path: str) -> str:
    """The UTC day of a path's partition, "" where it names none."""
    found = _DAY.search(path)
    if not found:
        return ""
    year, month, year_month, day = found.groups()
    return f"{year_month or f'{year}-{month}'}-{day}"
