"""The accounts of all spools: those that their services published into the lake, and those that lie on this machine.

The second are fresher and win. A spool is the same spool by its id, wherever its directory is mounted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from batch.ticks import day_number
from pingfeed.core.clock import DAY_MS
from pingfeed.core.errors import FormatError
from pingfeed.ports import Lake
from pingfeed.spool.checkpoint import FILE
from pingfeed.spool.stats import Account, account_of


@dataclass(frozen=True)
class Promised:
    """What the accounts say of one day of arrival."""

    spooled: int = 0
    delivered: int = 0
    delivered_ms: int | None = None
    """When the last of it was delivered; None if nothing was."""


class _Removed(msgspec.Struct):
    """What the accounting reads of a tombstone: how many acceptances of which day were removed on purpose."""

    removed: dict[str, int] = {}


def accounts(lake: Lake, spool_dir: Path, now_ms: int) -> list[Account]:
    """Every spool's account, ordered by service and id. Raises FormatError for a damaged one, Unavailable."""
    found = {}
    for path in lake.list("accounts"):
        account = Account.of(lake.read(path), path)
        found[account.spool_id] = account
    for file in sorted(spool_dir.rglob(FILE)):
        own = account_of(file.parent, now_ms)
        if own is not None:
            found[own.spool_id] = own
    return sorted(found.values(), key=lambda one: (one.service, one.spool_id))


def promised(found: Sequence[Account], day: str) -> Promised:
    """What they say of a day, together."""
    days = [one.days[day] for one in found if day in one.days]
    return Promised(
        spooled=sum(one.spooled.get(day, 0) for one in found),
        delivered=sum(one.delivered for one in days),
        delivered_ms=max((one.delivered_ms for one in days), default=None),
    )


def removed(lake: Lake, day: str) -> int:
    """How many acceptances of a day were removed from the lake because a user asked to be forgotten."""
    total = 0
    for path in lake.list("forgotten"):
        try:
            total += msgspec.json.decode(lake.read(path), type=_Removed).removed.get(day, 0)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise FormatError(f"{path} is no tombstone: {error}") from error
    return total


def last_partition(found: Promised, day: str) -> int:
    """The last partition (a day's number) that may hold events of that day: Firehose names it by its own clock."""
    arrived = day_number(day)
    return (arrived if found.delivered_ms is None else max(arrived, found.delivered_ms // DAY_MS)) + 1
