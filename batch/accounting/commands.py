"""`pingfeed reconcile` and `pingfeed rejected`."""

import argparse
import os
import sys
from datetime import date
from typing import Final

import msgspec
from rich.console import Console

from batch.accounting import report
from batch.accounting.reconcile import days_until
from batch.accounting.reconcile import reconcile as reconcile_days
from pingfeed import settings, wiring
from pingfeed.clock import day_of, system_clock
from pingfeed.errors import InvalidInput
from pingfeed.urls import scheme_of

Options = argparse.Namespace
_MAX_DAYS: Final = 400


def reconcile(parser: argparse.ArgumentParser) -> None:
    """`pingfeed reconcile`."""
    parser.add_argument("--day", metavar="YYYY-MM-DD", help="UTC day of arrival (default: today)")
    parser.add_argument("--days", type=int, metavar="N", help="the N days that end with it")
    parser.add_argument("--json", action="store_true", help="for machines; a list with --days")
    parser.set_defaults(run=_reconcile)


def _reconcile(options: Options) -> int:
    chosen = settings.load(os.environ)
    now_ms = system_clock()
    if options.days is not None and not 1 <= options.days <= _MAX_DAYS:
        raise InvalidInput(f"--days must be 1 to {_MAX_DAYS}", field="days")
    days = days_until(day_given(options.day) or day_of(now_ms), options.days or 1)
    found = reconcile_days(wiring.open_lake(chosen), chosen.spool_dir, days, now_ms)
    if options.json:
        counts = [day.counts for day in found.days]
        sys.stdout.write(msgspec.json.encode(counts[0] if options.days is None else counts).decode() + "\n")
    else:
        console = Console()
        console.print(report.table(found))
        if len(found.days) == 1 and found.days[0].accounts:
            console.print(report.accounts_table(found.days[0]))
        for sentence in report.sentences(found, now_ms, firehose=scheme_of(chosen.events_url) == "firehose"):
            console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    return int(any(day.counts.missing for day in found.days))


def day_given(text: str | None) -> str | None:
    """A day as `YYYY-MM-DD`; InvalidInput for what is none."""
    try:
        return None if text is None else date.fromisoformat(text).isoformat()
    except ValueError as error:
        raise InvalidInput(f"--day {text!r} is not a day such as 2026-11-22", field="day") from error
