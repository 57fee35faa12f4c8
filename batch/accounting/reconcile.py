"""`pingfeed reconcile`: what was accepted, by day of arrival, and where all of it is.

    accepted  = spooled + delivered                          the accounts (`accounts.py`)
    delivered = landed + missing + what users had removed    the raw zone, read (`landed.py`)

The accounts are read before the lake, and an event lies in the lake before it counts as delivered, so what is on its
way meanwhile is never taken for missing. What users had removed is read after the lake, for a night counts it before it
removes it. Of a day whose raw events are too old to be kept, what is not there says nothing, and nothing is missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from batch.accounting.accounts import Promised, accounts, last_partition, promised, removed
from batch.accounting.landed import Landed, RawZone, partition_folder
from batch.ticks import day_name, day_number
from pingfeed.core.clock import DAY_MS
from pingfeed.core.errors import NotFound
from pingfeed.ports import Lake
from pingfeed.spool.stats import Account

_TRIES: Final = 3


class Counts(msgspec.Struct, frozen=True):
    """One day of arrival. Of its accepted events, `missing` are nowhere; `short` names the partitions they lack in."""

    day: str
    accepted: int
    spooled: int
    delivered: int
    landed: int
    duplicates: int
    missing: int
    short: list[str]


@dataclass(frozen=True)
class Reconciled:
    """A day's counts, and what a person has to know to understand them."""

    counts: Counts
    removed: int
    delivered_ms: int | None
    """When the last of it was delivered."""
    accounts: list[Account]
    """Those that know of the day."""
    raw_days: int | None = None
    """After how many days its raw events were removed as too old; None where the day is not that old."""


@dataclass(frozen=True)
class Report:
    """Several days, oldest first."""

    days: list[Reconciled]
    left_out: dict[str, str]
    """Files that cannot be read, with the reason: what is in them was not counted as landed."""


def reconcile(lake: Lake, spool_dir: Path, days: Sequence[str], now_ms: int, *, raw_days: int = 0) -> Report:
    """Reconcile consecutive days, oldest first. Changes nothing and needs no lease. FormatError, Unavailable.

    `raw_days` is how long raw events are kept; 0 is for ever.
    """
    for _ in range(_TRIES - 1):
        try:
            return _reconcile(lake, spool_dir, days, now_ms, raw_days)
        except NotFound:  # A night compacts what it found listed a moment ago.
            continue
    return _reconcile(lake, spool_dir, days, now_ms, raw_days)


def _reconcile(lake: Lake, spool_dir: Path, days: Sequence[str], now_ms: int, raw_days: int) -> Report:
    known = accounts(lake, spool_dir, now_ms)
    said = {day: promised(known, day) for day in days}
    first, last = day_number(days[0]), day_number(days[-1])
    with RawZone(lake, first, last) as zone:
        zone.read(range(first, 1 + max(last_partition(said[day], day) for day in days)))
        if said[days[0]].delivered > zone.landed(first).acceptances:
            # A door whose clock is ahead of Firehose's: what arrived just after midnight lies in the day before.
            zone.read([first - 1])
        landed = {day: zone.landed(day_number(day)) for day in days}
        left_out = zone.left_out
    first_kept = now_ms // DAY_MS - raw_days if raw_days else first
    found = []
    for day in days:
        expired_after = raw_days if day_number(day) < first_kept else None
        found.append(_day(day, said[day], landed[day], removed(lake, day), known, expired_after))
    return Report(found, left_out)


def _day(
    day: str, said: Promised, landed: Landed, gone: int, known: Sequence[Account], expired_after: int | None
) -> Reconciled:
    missing = 0 if expired_after is not None else max(0, said.delivered - landed.acceptances - gone)
    counts = Counts(
        day=day,
        accepted=said.spooled + said.delivered,
        spooled=said.spooled,
        delivered=said.delivered,
        landed=landed.acceptances,
        duplicates=landed.duplicates,
        missing=missing,
        short=[partition_folder(day)] if missing else [],
    )
    own = [one for one in known if day in one.days or day in one.spooled]
    return Reconciled(counts, gone, said.delivered_ms, own, expired_after)


def days_until(day: str, count: int) -> list[str]:
    """The `count` days that end with `day`, oldest first."""
    last = day_number(day)
    return [day_name(number) for number in range(last - count + 1, last + 1)]
