"""The commands `reconcile`, `rejected list`, `signals rebuild`, `forget` and `export`."""

import os
import sys
from collections.abc import Iterable, Sequence
from datetime import date
from typing import Final

import msgspec

from batch.ops import reconcile as reconciling
from batch.ops import rejected as rejecting
from batch.ops import signals_rebuild
from batch.ops.export import export_user
from batch.ops.forget import Forgetting, events_waiting, forget_users
from batch.wiring import build
from pingfeed import settings
from pingfeed.adapters import registry
from pingfeed.core.clock import day_of, system_clock, to_iso
from pingfeed.core.errors import InvalidInput
from pingfeed.core.events import Id
from pingfeed.core.urls import scheme_of
from pingfeed.core.words import counted
from pingfeed.terminal import print_json, print_table

_MAX_DAYS: Final = 400
_EXAMPLE_CHARACTERS: Final = 60


def reconcile(day: str | None = None, days: int | None = None, *, json: bool = False) -> int:
    """Compare accepted with landed events for a UTC day of arrival (default: today), or for the N days up to it."""
    chosen, now_ms = settings.load(os.environ), system_clock()
    lake = registry.open_lake(chosen)
    names = _days(day, 1 if days is None else days)
    found = reconciling.reconcile(lake, chosen.spool_dir, names, now_ms, raw_days=chosen.raw_days)
    if json:
        counts = [one.counts for one in found.days]
        print_json(counts[0] if days is None else counts)
    else:
        _print_counts(found)
        if found.days[-1].spools:
            _print_spools(found.days[-1])
        for sentence in reconciling.sentences(found, now_ms, firehose=scheme_of(chosen.events_url) == "firehose"):
            sys.stdout.write(f"{sentence}\n")
    return int(any(one.counts.missing for one in found.days))


def list_rejected(
    day: str | None = None, days: int | None = None, code: str | None = None, *, json: bool = False
) -> int:
    """List rejected events by day and reason; with `json`, print request bodies that send them again."""
    chosen = settings.load(os.environ)
    lake = registry.open_lake(chosen)
    if days is None:
        days = 1 if day else chosen.rejected_days
    names = _days(day, days)
    if json:
        skipped = rejecting.Skipped()
        for body in rejecting.bodies(lake, names, code, skipped):
            sys.stdout.write(body.decode() + "\n")
        for reason, count in vars(skipped).items():
            if count:
                sys.stderr.write(f"skipped, {reason.replace('_', ' ')}: {count:,}\n")
        return 0
    _print_rejected(rejecting.summary(lake, names, code))
    return 0


def forget(users: Sequence[str], *, json: bool = False) -> int:
    """Forget users; `-` reads ids from standard input."""
    ids = _ids(users)
    done = forget_users(build(settings.load(os.environ), quiet=True), ids)
    if json:
        print_json(done)
    else:
        sys.stdout.write("".join(f"{line}\n" for line in _outcome(done)))
    return 0


def export(user: str) -> int:
    """Print everything about a user as JSON lines."""
    (user_id,) = _ids([user])
    batch = build(settings.load(os.environ), quiet=True)
    lines, unreadable = export_user(batch, user_id)
    sys.stdout.writelines(f"{line.decode()}\n" for line in lines)
    if unreadable:
        sys.stderr.write(f"files that could not be read: {len(unreadable):,}, such as {unreadable[0]}\n")
    if waiting := events_waiting(batch):
        sys.stderr.write(f"events of all users waiting in spools, which are not exported: {waiting:,}\n")
    return int(bool(unreadable))


def rebuild_signals(*, json: bool = False) -> int:
    """Bring users' relations and profiles from the lake back into the signals."""
    done = signals_rebuild.rebuild(build(settings.load(os.environ), quiet=json))
    if json:
        print_json(done)
    else:
        sys.stdout.write(f"{counted(done.decisions, 'decision')} of {counted(done.users, 'user')} applied\n")
    return 0


def _days(day: str | None, count: int) -> list[str]:
    if not 1 <= count <= _MAX_DAYS:
        raise InvalidInput(f"--days must be 1 to {_MAX_DAYS}", field="days")
    try:
        last = day_of(system_clock()) if day is None else date.fromisoformat(day).isoformat()
    except ValueError as error:
        raise InvalidInput(f"--day {day!r} is not a day such as 2026-11-22", field="day") from error
    return reconciling.days_until(last, count)


def _ids(given: Iterable[str]) -> list[str]:
    """The ids, each once; InvalidInput before anything is done if one is not an id."""
    words = (word for name in given for word in (sys.stdin.read().split() if name == "-" else [name]))
    users = list(dict.fromkeys(words))
    for user_id in users:
        try:
            msgspec.convert(user_id, Id)
        except msgspec.ValidationError as error:
            sentence = f"{user_id!r} is not a user id (1 to 128 bytes of [A-Za-z0-9._:@-]); nothing was done"
            raise InvalidInput(sentence, field="user_id") from error
    return users


def _outcome(done: Forgetting) -> Iterable[str]:
    yield f"deletion requests: {done.users:,}; removed packets: {done.packets:,}, signals: {done.signals:,}"
    for user_id in done.unknown:
        yield f"{user_id} is unknown: no packet, no signals and no event in the lake"
    yield "the next nightly job (or `pingfeed etl` now) removes these users from the lake"
    if done.waiting:
        yield (
            f"events waiting in spools: {done.waiting:,}; a service that starts may restore signals from them: once "
            "they are delivered, run `pingfeed forget` again"
        )


def _print_counts(report: reconciling.Report) -> None:
    heads = ("day", "accepted", "spooled", "delivered", "landed", "removed", "missing", "duplicates")
    rows = []
    for found in report.days:
        c = found.counts
        numbers = (c.accepted, c.spooled, c.delivered, c.landed, found.removed, c.missing, c.duplicates)
        rows.append((c.day, *(f"{number:,}" for number in numbers)))
    print_table(heads, rows, title="accepted = spooled + delivered; delivered = landed + removed + missing")


def _print_spools(found: reconciling.Reconciled) -> None:
    """Each spool's own numbers. One that is not heard of any more may be lost: what waits in it is not missing."""
    day = found.counts.day
    rows = []
    for stats in found.spools:
        delivered = stats.days[day].delivered if day in stats.days else 0
        numbers = (f"{delivered:,}", f"{stats.spooled.get(day, 0):,}")
        rows.append((stats.service, stats.spool_id, *numbers, to_iso(stats.published_ms)))
    print_table(("service", "spool", "delivered", "spooled", "as of"), rows, title=f"Spools on {day}")


def _print_rejected(summary: dict[tuple[str, str], tuple[int, rejecting.Line]]) -> None:
    total = sum(count for count, _ in summary.values())
    rows = []
    for (day, code), (count, first) in summary.items():
        cut = first.body[:_EXAMPLE_CHARACTERS] + "..." * (len(first.body) > _EXAMPLE_CHARACTERS)
        rows.append((day, code, f"{count:,}", first.message, cut))
    print_table(("day", "code", "events", "first message", "first body"), rows, title=f"Rejected events: {total:,}")
