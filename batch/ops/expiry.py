"""Expire old files: raw events after `RAW_DAYS` (0: never), rejected and quarantined data after `REJECTED_DAYS`.

Malformed rows (`rejected/raw-*`) and the list of removed events (`removed/`) are kept as long as raw events. A raw file
goes only if a run has read it, with the manifests of compactions once their day is empty. The ledger keeps its name, so
a file that is put back is not read again. Quarantined are rows that a step could not take
(`quarantine/`) and damaged parts of spools that this machine can see.
"""

from pathlib import Path
from typing import NamedTuple

from batch.lake.ledger import Ledger, is_compacted
from batch.lake.quarantine import QUARANTINE as QUARANTINED
from batch.ops.rejected import is_raw
from batch.ticks import day_name, day_of_path
from batch.wiring import Batch
from pingfeed.core.clock import DAY_MS
from pingfeed.files import writing
from pingfeed.ports import Lake
from pingfeed.spool.recovery import QUARANTINE


class Expired(NamedTuple):
    """How many files were removed."""

    raw: int
    rejected: int
    quarantined: int


def expire(batch: Batch, today: int) -> Expired:
    """Remove what is too old on day `today`."""
    chosen, lake = batch.settings, batch.tables.lake
    raw = _expire_raw(batch, day_name(today - chosen.raw_days)) if chosen.raw_days else 0
    first_kept = day_name(today - chosen.rejected_days + 1)
    rejected = _delete(lake, [path for path in _older(lake, "rejected", first_kept) if not is_raw(path)])
    quarantined = _delete(lake, _older(lake, QUARANTINED, first_kept))
    end_ms = (today - chosen.rejected_days + 1) * DAY_MS
    return Expired(raw, rejected, quarantined + _expire_quarantine(chosen.spool_dir, end_ms))


def _expire_raw(batch: Batch, first_kept: str) -> int:
    lake = batch.tables.lake
    old = [path for folder in ("events", "errors") for path in _older(lake, folder, first_kept)]
    if old:
        known = Ledger(batch.tables, batch.ticks).known_runs()
        _delete(lake, old := [path for path in old if path in known or is_compacted(path)])
    left = {day_of_path(path) for path in _older(lake, "events", first_kept)}
    _delete(lake, [path for path in _older(lake, "compactions", first_kept) if day_of_path(path) not in left])
    notes = [path for path in _older(lake, "rejected", first_kept) if is_raw(path)]
    return len(old) + _delete(lake, notes) + _delete(lake, _older(lake, "removed", first_kept))


def _expire_quarantine(spool_dir: Path, end_ms: int) -> int:
    old = [
        file
        for file in spool_dir.rglob(f"{QUARANTINE}/*")
        if file.is_file() and file.stat().st_mtime_ns // 1_000_000 < end_ms
    ]
    for file in old:
        with writing(str(file)):
            file.unlink(missing_ok=True)
    return len(old)


def _delete(lake: Lake, paths: list[str]) -> int:
    for path in paths:
        lake.delete(path)
    return len(paths)


def _older(lake: Lake, folder: str, first_kept: str) -> list[str]:
    return [path for path in lake.list(folder) if "" < day_of_path(path) < first_kept]
