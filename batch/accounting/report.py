"""What a person reads of a reconciliation and of refused events: tables, and sentences that say what they mean."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from rich.markup import escape
from rich.table import Table

from batch.accounting.reconcile import Reconciled, Report
from batch.accounting.refused import Refused, is_of_raw_zone
from batch.accounting.repaired import Skipped
from batch.accounting.replay import Outcome
from pingfeed.core.clock import to_iso
from pingfeed.spool.checkpoint import KEPT_DAYS
from pingfeed.spool.stats import Account

FIREHOSE_HOLDS_MS: Final = 15 * 60_000
"""The longest that a stream can be told to buffer."""
_SHOWN: Final = 3
_BODY_CHARACTERS: Final = 60


def table(report: Report) -> Table:
    """A row a day."""
    names = ("day", "accepted", "spooled", "delivered", "landed", "removed", "missing", "duplicates")
    found = Table(*names, title="Accepted = spooled + delivered; delivered = landed + removed + missing")
    found.columns[0].no_wrap = True  # Where it is narrow, the others' heads may be cut, not the day.
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
    if day.raw_days is not None:
        said += f"and raw events that are older than {day.raw_days} days (PINGFEED_RAW_DAYS) were removed as too old."
    else:
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
        f" {one.spooled[day.counts.day]:,} events wait in the spool {one.spool_id} of {one.service}, which is not on "
        f"this machine and was last heard of at {to_iso(one.published_ms)}. If that spool is gone, so are they: they "
        "count as spooled, not as missing."
        for one in silent
    )


def _is_silent(one: Account, now_ms: int) -> bool:
    return now_ms - one.published_ms > FIREHOSE_HOLDS_MS


def refused_table(summary: Mapping[tuple[str, str], tuple[int, Refused]]) -> Table:
    """A row for each day and reason, with an example."""
    found = Table("day", "code", "events", "the first of them", "its body")
    found.columns[2].justify = "right"
    for (day, code), (count, first) in summary.items():
        body = first.body.decode()
        cut = body if len(body) <= _BODY_CHARACTERS else body[:_BODY_CHARACTERS] + "..."
        found.add_row(day, escape(code), f"{count:,}", escape(first.message), escape(cut))
    return found


def refused_sentence(summary: Mapping[tuple[str, str], tuple[int, Refused]]) -> str:
    """How many, and what to do about them."""
    total = sum(count for count, _ in summary.values())
    if not total:
        return "Nothing that was refused is kept."
    return (
        f"{total:,} refused events are kept. `pingfeed rejected list --code CODE --json > FILE` writes them whole; "
        "`pingfeed rejected replay FILE` sends them again once they are repaired."
    )


def replay_sentences(done: Outcome, skipped: Skipped, removed: int | None) -> Iterator[str]:
    """What became of replayed events; `removed` is None where nothing was to be removed."""
    said = f"{done.accepted:,} accepted, {done.duplicates:,} accepted before, {done.refused:,} refused again"
    if skipped.lines:
        said += f", {skipped.lines:,} lines skipped: their body is no JSON that can be read"
    if skipped.forbidden:
        said += f", {skipped.forbidden:,} lines skipped: their senders were not allowed to send them"
    if removed is not None:
        said += f"; {removed:,} lines removed from the lake"
        if kept := _kept(done):
            said += f", {kept:,} kept: they show that events of the raw zone have landed"
    yield said
    yield from (f"  {one.line}: {why.code}: {why.message}" for one, why in done.reasons[: 2 * _SHOWN])
    if len(done.reasons) > 2 * _SHOWN:
        yield f"  and {done.refused - 2 * _SHOWN:,} more"


def _kept(done: Outcome) -> int:
    """How many lines whose events were taken are never removed."""
    return sum(len(ids) for path, ids in done.taken.items() if is_of_raw_zone(path))


def replayed(done: Outcome, skipped: Skipped, removed: int) -> dict[str, Any]:
    """The same for a machine; `rejected` has the first hundred."""
    rejected = [
        {"id": one.line, "code": why.code, "field": why.field, "message": why.message} for one, why in done.reasons
    ]
    counts = {"accepted": done.accepted, "duplicates": done.duplicates, "refused": done.refused}
    lines = {"skipped": skipped.lines + skipped.forbidden, "removed": removed, "kept": _kept(done)}
    return {**counts, **lines, "rejected": rejected}
