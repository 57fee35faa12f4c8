"""`pingfeed reconcile`: what was accepted, by day of arrival, and where all of it is.

    accepted  = spooled + delivered                          the accounts (`accounts.py`)
    delivered = landed + missing + what users had removed    the raw zone, read (`landed.py`)

The accounts are read before the lake, and an event lies in the lake before it counts as delivered, so what is on its
way meanwhile is never taken for missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from batch.accounting.accounts import Promised, accounts, last_partition, promised, removed
from batch.accounting.landed import Landed, RawZone, partition_folder
from batch.ticks import day_name, day_number
from pingfeed.delivery.publish import Account
from pingfeed.errors import NotFound
from pingfeed.ports import Lake

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


@dataclass(frozen=True)
class Report:
    """Several days, oldest first."""

    days: list[Reconciled]
    left_out: dict[str, str]
    """Files that cannot be read, with the reason: what is in them was not counted as landed."""


def reconcile(lake: Lake, spool_dir: Path, days: Sequence[str], now_ms: int) -> Report:
    """Reconcile consecutive days, oldest first. Changes nothing and needs no lease. FormatError, Unavailable."""
    for _ in range(_TRIES - 1):
        try:
            return _reconcile(lake, spool_dir, days, now_ms)
        except NotFound:  # A night compacts what it found listed a moment ago.
            continue
    return _reconcile(lake, spool_dir, days, now_ms)


def _reconcile(lake: Lake, spool_dir: Path, days: Sequence[str], now_ms: int) -> Report:
    known = accounts(lake, spool_dir, now_ms)
    said = {day: promised(known, day) for day in days}
    gone = {day: removed(lake, day) for day in days}
    first, last = day_number(days[0]), day_number(days[-1])
    with RawZone(lake, first, last) as zone:
        zone.read(range(first, 1 + max(last_partition(said[day], day) for day in days)))
        if _missing(said[days[0]], zone.landed(first), gone[days[0]]):
            # A door whose clock is ahead of Firehose's: what arrived just after midnight lies in the day before.
            zone.read([first - 1])
        found = [_day(day, said[day], zone.landed(day_number(day)), gone[day], known) for day in days]
        return Report(found, zone.left_out)


def _day(day: str, said: Promised, landed: Landed, gone: int, known: Sequence[Account]) -> Reconciled:
    missing = _missing(said, landed, gone)
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
    return Reconciled(counts, gone, said.delivered_ms, [one for one in known if day in one.days or day in one.spooled])


def _missing(said: Promised, landed: Landed, gone: int) -> int:
    return max(0, said.delivered - landed.acceptances - gone)


def days_until(day: str, count: int) -> list[str]:
    """The `count` days that end with `day`, oldest first."""
    last = day_number(day)
    return [day_name(number) for number in range(last - count + 1, last + 1)]
