"""`pingfeed import metarank` and `pingfeed import csv`."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.progress import Progress

from batch.importers.csv_log import CsvLog
from batch.importers.formats import Format
from batch.importers.mapping import LEFT_OUT, event_types, field_map
from batch.importers.metarank_lines import REACTIONS, TYPES, Names
from batch.importers.metarank_log import MetarankFormat
from batch.importers.run import Importer, Placing, Watch
from batch.importers.show import as_json, show
from batch.importers.source import OnRead, Source
from batch.importers.times import length_ms
from batch.jobs.lease import lease
from batch.wiring import build
from pingfeed import settings
from pingfeed.core.clock import system_clock, to_ms
from pingfeed.core.errors import InvalidInput

Options = argparse.Namespace
_DELIMITERS: Final = {"tab": "\t", "space": " "}


def import_events(parser: argparse.ArgumentParser) -> None:
    """`pingfeed import`."""
    formats = parser.add_subparsers(dest="format", metavar="FORMAT", required=True)
    _metarank(formats.add_parser("metarank", help="Metarank's event log, JSON lines"))
    _csv(formats.add_parser("csv", help="an interaction log with a line an event"))


def _metarank(parser: argparse.ArgumentParser) -> None:
    _common(parser)
    parser.add_argument("--stretch", metavar="LENGTH", help="make the log last so long, evenly: 14d, 36h, 90m")
    _placing_options(parser, keep_dates=False)
    _events_option(parser, "interactions of type WORD become TYPE events (click=like unless said otherwise)")
    parser.add_argument("--topics", default="genres", help="the item's field with its topics (default %(default)s)")
    parser.add_argument("--creator", default="director", help="the item's field with its creator (default %(default)s)")
    parser.set_defaults(run=lambda options: _run(options, _metarank_format(options), _metarank_placing(options)))


def _csv(parser: argparse.ArgumentParser) -> None:
    _common(parser)
    parser.add_argument(
        "--map",
        action="append",
        required=True,
        metavar="FIELD=COLUMN,...",
        help="which column each field of an event comes from; FIELD==VALUE for the same value in every line",
    )
    _events_option(parser, "WORD in the event_type column means TYPE, or `skip` to leave such lines out")
    parser.add_argument("--delimiter", default=",", help="what divides columns: one character, or `tab` (default ,)")
    parser.add_argument("--separator", default="|", help="what divides a line's topics (default %(default)s)")
    parser.add_argument("--header", default="", metavar="A,B,...", help="the columns' names, if no line has them")
    _placing_options(parser, keep_dates=True)
    parser.add_argument("--escape-ids", action="store_true", help="make ids valid that are not, instead of refusing")
    parser.set_defaults(run=lambda options: _run(options, _csv_format(options), Placing(options.keep_dates)))


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="plain or gzip")
    parser.add_argument("--dry-run", action="store_true", help="write nothing; show what would be imported and refused")
    parser.add_argument("--at", metavar="TIME", help="act as at this time (ISO 8601, UTC)")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON, and no progress")


def _placing_options(parser: argparse.ArgumentParser, *, keep_dates: bool) -> None:
    default = " (the default)"
    placing = parser.add_mutually_exclusive_group()
    placing.add_argument(
        "--keep-dates",
        action="store_true",
        default=keep_dates,
        help=f"everything arrives at the log's own times{default * keep_dates}",
    )
    placing.add_argument(
        "--end-now",
        dest="keep_dates",
        action="store_false",
        default=keep_dates,
        help=f"move all times so that the last is at the last tick before now{default * (not keep_dates)}",
    )


def _events_option(parser: argparse.ArgumentParser, meaning: str) -> None:
    parser.add_argument("--events", action="append", default=[], metavar="WORD=TYPE,...", help=meaning)


def _metarank_format(options: Options) -> MetarankFormat:
    said = event_types(options.events)
    for word, kind in said.items():
        if kind not in (*REACTIONS, LEFT_OUT):
            raise InvalidInput(f"--events {word}: an interaction can become one of {', '.join(REACTIONS)}")
    return MetarankFormat(Names(options.topics, options.creator, {**TYPES, **said}))


def _metarank_placing(options: Options) -> Placing:
    return Placing(options.keep_dates, length_ms(options.stretch) if options.stretch else None)


def _csv_format(options: Options) -> CsvLog:
    delimiter = _DELIMITERS.get(options.delimiter, options.delimiter)
    if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n':
        raise InvalidInput("--delimiter must be one character, or tab")
    if not options.separator:
        raise InvalidInput("--separator must not be empty")
    return CsvLog(
        fields=field_map(options.map),
        types=event_types(options.events),
        delimiter=delimiter,
        separator=options.separator,
        header=[name.strip() for name in options.header.split(",")] if options.header else [],
        escape_ids=options.escape_ids,
    )


def _run(options: Options, form: Format, placing: Placing) -> int:
    clock = system_clock
    if options.at is not None:
        moment = _moment(options.at)
        clock = lambda: moment  # noqa: E731
    batch = build(settings.load(os.environ), clock=clock, quiet=options.json)
    source = Source(options.file)
    held = nullcontext() if options.dry_run else lease(batch.settings.home)
    with held, watching(source, quiet=options.json) as watch:
        outcome = Importer(batch, source, form, watch).run(placing, dry_run=options.dry_run)
    if options.json:
        sys.stdout.write(f"{msgspec.json.encode(as_json(outcome)).decode()}\n")
    else:
        show(outcome, Console())
    return 0 if outcome.events or outcome.again else 1


def _moment(text: str) -> int:
    try:
        return to_ms(datetime.fromisoformat(text))
    except ValueError as error:
        raise InvalidInput(f"--at {text!r} is not a time such as 2026-11-22T12:00:00Z", field="at") from error


@contextmanager
def watching(source: Source, *, quiet: bool) -> Iterator[Watch]:
    """A bar for each pass over the file, on standard error if somebody looks at it."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as progress:

        def watch(what: str) -> OnRead:
            task = progress.add_task(what, total=source.size)
            return lambda read: progress.update(task, completed=read)

        yield watch
