"""`pingfeed reconcile` and `pingfeed rejected`."""

import argparse
import os
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console

from batch.accounting import report
from batch.accounting.door import EventReceiver
from batch.accounting.reconcile import days_until
from batch.accounting.reconcile import reconcile as reconcile_days
from batch.accounting.refused import refused, remove, shown, summarised
from batch.accounting.repaired import Skipped, of_file, of_lake
from batch.accounting.replay import replay
from batch.rejected_files import folder_of
from pingfeed import settings
from pingfeed.adapters import registry
from pingfeed.core.clock import day_of, system_clock
from pingfeed.core.errors import InvalidInput
from pingfeed.core.urls import scheme_of
from pingfeed.files import reading
from pingfeed.settings import INGEST_PORT

Options = argparse.Namespace
API_KEY: Final = f"{settings.PREFIX}API_KEY"
"""The key that a caller shows; the services know its digest."""
_MAX_DAYS: Final = 400
_REPLAY: Final = (
    "Sends refused events again. What was forbidden to its sender (code forbidden) is skipped, for your key may send "
    "everything; with a FILE and --code forbidden it is sent. Lines of raw-* files are never removed."
)


def reconcile(parser: argparse.ArgumentParser) -> None:
    """`pingfeed reconcile`."""
    parser.add_argument("--day", metavar="YYYY-MM-DD", help="UTC day of arrival (default: today)")
    parser.add_argument("--days", type=int, metavar="N", help="the N days that end with it")
    parser.add_argument("--json", action="store_true", help="for machines; a list with --days")
    parser.set_defaults(run=_reconcile)


def _reconcile(options: Options) -> int:
    chosen = _settings()
    now_ms = system_clock()
    if options.days is not None and not 1 <= options.days <= _MAX_DAYS:
        raise InvalidInput(f"--days must be 1 to {_MAX_DAYS}", field="days")
    days = days_until(day_given(options.day) or day_of(now_ms), options.days or 1)
    found = reconcile_days(registry.open_lake(chosen), chosen.spool_dir, days, now_ms, raw_days=chosen.raw_days)
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


def rejected(parser: argparse.ArgumentParser) -> None:
    """`pingfeed rejected`."""
    words = parser.add_subparsers(metavar="list|replay", required=True)
    listing = words.add_parser("list", help="what was refused, by day and reason")
    _which(listing)
    listing.add_argument("--json", action="store_true", help="every one whole, a JSON object a line, to be edited")
    listing.set_defaults(run=_list)
    replaying = words.add_parser("replay", help="send refused events again", description=_REPLAY)
    _which(replaying)
    replaying.add_argument("file", nargs="?", help="repaired lines of `rejected list --json`; - is standard input")
    replaying.add_argument("--to", default=f"http://127.0.0.1:{INGEST_PORT}", metavar="URL", help="%(default)s")
    replaying.add_argument("--key-file", type=Path, metavar="PATH", help=f"holds the API key (default: {API_KEY})")
    replaying.add_argument("--remove", action="store_true", help="take what was accepted out of the lake")
    replaying.add_argument("--json", action="store_true", help="for machines")
    replaying.set_defaults(run=_replay)


def _which(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--day", metavar="YYYY-MM-DD", help="UTC day of arrival (default: all)")
    parser.add_argument("--code", help="the reason, such as out_of_range (default: all)")


def _list(options: Options) -> int:
    found = refused(registry.open_lake(_settings()), day_given(options.day), options.code)
    if options.json:
        sys.stdout.writelines(shown(one).decode() for one in found)
        return 0
    summary = summarised(found)
    console = Console()
    console.print(report.refused_table(summary))
    console.print(report.refused_sentence(summary), highlight=False, markup=False, soft_wrap=True)
    return 0


def _replay(options: Options) -> int:
    chosen = _settings()
    lake = registry.open_lake(chosen)
    door = EventReceiver(options.to, _key(options))
    skipped = Skipped()
    if options.file is None:
        repaired = of_lake(refused(lake, day_given(options.day), options.code), skipped)
    else:
        repaired = of_file(_lines(options.file), day_given(options.day), options.code, skipped)
    done = replay(door, repaired, system_clock())
    removed = remove(lake, folder_of(chosen), done.taken) if options.remove else 0
    if options.json:
        sys.stdout.write(msgspec.json.encode(report.replayed(done, skipped, removed)).decode() + "\n")
    else:
        for sentence in report.replay_sentences(done, skipped, removed if options.remove else None):
            sys.stdout.write(f"{sentence}\n")
    if done.stopped is not None:
        raise done.stopped
    return int(done.refused > 0)


def _lines(name: str) -> Iterator[bytes]:
    if name == "-":
        yield from sys.stdin.buffer
        return
    with reading(name), Path(name).open("rb") as file:
        yield from file


def _key(options: Options) -> str:
    if options.key_file is None:
        return os.environ.get(API_KEY, "")
    with reading(str(options.key_file)):
        return str(options.key_file.read_text(encoding="utf-8").strip())


def _settings() -> settings.Settings:
    """The settings, without the caller's own key, which is none of them."""
    return settings.load({name: value for name, value in os.environ.items() if name != API_KEY})


def day_given(text: str | None) -> str | None:
    """A day as `YYYY-MM-DD`; InvalidInput for what is none."""
    try:
        return None if text is None else date.fromisoformat(text).isoformat()
    except ValueError as error:
        raise InvalidInput(f"--day {text!r} is not a day such as 2026-11-22", field="day") from error
