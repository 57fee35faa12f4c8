"""A reconciliation for a person: a table, and a sentence that says what is where and what a gap means."""

from collections.abc import Iterator
from typing import Final

from rich.table import Table

from batch.accounting.reconcile import Reconciled, Report
from pingfeed.clock import to_iso
from pingfeed.delivery.publish import Account
from pingfeed.delivery.tally import KEPT_DAYS

FIREHOSE_HOLDS_MS: Final = 15 * 60_000
"""The longest that a stream can be told to buffer."""
_SHOWN: Final = 3


def table(report: Report) -> Table:
    """A row a day."""
    names = ("day", "accepted", "spooled", "delivered", "landed", "removed", "missing", "duplicates")
    found = Table(*names, title="Accepted = spooled + delivered; delivered = landed + removed + missing")
    for column in found.columns[1:]:
        column.justify = "right"
    for day in report.days:
        c = day.counts
        numbers = (c.accepted, c.spooled, c.delivered, c.landed, day.removed, c.missing, c.duplicates)
        found.add_row(c.day, *(f"{number:,}" for number in numbers), style="red" if c.missing else None)
    return found


def accounts_table(day: Reconciled) -> Table:
    """What each spool says of one day."""
    found = Table("spool of", "id", "delivered", "waits", "as of", title=f"Spools that know of {day.counts.day}")
    for one in day.accounts:
        delivered = one.days[day.counts.day].delivered if day.counts.day in one.days else 0
        waits = one.spooled.get(day.counts.day, 0)
        found.add_row(one.service, one.spool_id, f"{delivered:,}", f"{waits:,}", to_iso(one.published_ms))
    return found


def sentences(report: Report, now_ms: int, *, firehose: bool) -> Iterator[str]:
    """What the numbers mean: one for each day, and one for files that cannot be read."""
    for day in report.days:
        yield _sentence(day, now_ms, firehose=firehose)
    if report.left_out:
        shown = "; ".join(f"{path}: {reason}" for path, reason in list(report.left_out.items())[:_SHOWN])
        yield f"{len(report.left_out):,} files cannot be read, and what is in them does not count as landed ({shown})."


def _sentence(day: Reconciled, now_ms: int, *, firehose: bool) -> str:
    c = day.counts
    if not day.accounts:
        return f"{c.day}: {_unknown(c.landed)}"
    where = [f"{c.landed:,} are in the lake", f"{c.spooled:,} wait in a spool"]
    if day.removed:
        where.append(f"{day.removed:,} were removed because their users asked")
    said = f"{c.day}: of {c.accepted:,} accepted events {', '.join(where)}, "
    said += f"{c.missing:,} are missing{_why(day, now_ms, firehose=firehose)}" if c.missing else "none is missing."
    return said + _beyond(day) + _waiting(day, now_ms)


def _unknown(landed: int) -> str:
    if landed:
        return (
            f"no spool has an account of that day (they go back {KEPT_DAYS} days); {landed:,} events are in the lake."
        )
    return "nothing is known of that day: nothing was accepted, or no spool accounted for it."


def _why(day: Reconciled, now_ms: int, *, firehose: bool) -> str:
    partition = day.counts.short[0]
    if not firehose:
        return f": they were delivered to {partition}, and are not there any more. Restore its files."
    until_ms = (day.delivered_ms or 0) + FIREHOSE_HOLDS_MS
    if now_ms < until_ms:
        return f": Firehose took the last less than 15 minutes ago, and may hold them until {to_iso(until_ms)}."
    return f": Firehose took them, and neither {partition}, nor a later one, nor errors/ has them."


def _beyond(day: Reconciled) -> str:
    beyond = day.counts.landed - day.counts.delivered
    if beyond <= 0:
        return ""
    return f" {beyond:,} are there that no spool counts as delivered: just delivered, or by a spool without an account."


def _waiting(day: Reconciled, now_ms: int) -> str:
    """Spools that still owe events and have not been heard of: down, out of reach, or gone with their disk."""
    silent = [one for one in day.accounts if one.spooled.get(day.counts.day) and _is_silent(one, now_ms)]
    return "".join(
        f" The spool {one.spool_id} of {one.service} was last heard of at {to_iso(one.published_ms)}." for one in silent
    )


def _is_silent(one: Account, now_ms: int) -> bool:
    return now_ms - one.published_ms > FIREHOSE_HOLDS_MS
