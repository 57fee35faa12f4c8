"""`pingfeed import metarank` and `pingfeed import csv`."""

import argparse
import codecs
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.progress import Progress

from batch.importers.csv_format import CsvFormat
from batch.importers.csv_mapping import SKIP, FieldMap, event_types, field_map, pairs
from batch.importers.csv_times import check_formats
from batch.importers.importer import Importer, Placing, Watch
from batch.importers.metarank import REACTIONS, TYPES, MetarankFormat, Names
from batch.importers.pieces import Format
from batch.importers.report import as_json, show
from batch.importers.source import OnRead, Source
from batch.jobs.lease import lease
from batch.wiring import build
from pingfeed import settings
from pingfeed.core.clock import DAY_MS, system_clock, to_ms
from pingfeed.core.errors import InvalidInput

Options = argparse.Namespace
_DELIMITERS: Final = {"tab": "\t", "\\t": "\t", "space": " "}
_LENGTH: Final = re.compile(r"(\d+)([smhd])")
_UNITS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": DAY_MS}


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
    add = parser.add_argument
    add(
        "--map",
        action="append",
        required=True,
        metavar="FIELD=COLUMN,...",
        help="the column of each event field; FIELD==VALUE for the same value in every row; attributes.NAME and "
        "facets.NAME for a ping's named numbers and lists",
    )
    _events_option(parser, "WORD in the event_type column means TYPE, or `skip` to leave such rows out")
    add("--default", action="append", default=[], metavar="COLUMN=VALUE,...", help="what an empty cell stands for")
    add(
        "--rating-like",
        type=float,
        metavar="N",
        help="ratings (--map rating=COLUMN) from N up are likes, lower ones impressions",
    )
    add("--allow-ratings", action="store_true", help="import a watch_time_ratio that looks like ratings as it is")
    add(
        "--time-format",
        action="append",
        default=[],
        metavar="FORMAT",
        help="how times are written, as for strptime: '%%m/%%d/%%Y %%H:%%M'; may be given several times. ISO 8601, "
        "epoch seconds, milliseconds, microseconds and Excel serial days need none",
    )
    add("--delimiter", help="what separates columns: one character, or `tab` (default: recognised by the header)")
    add(
        "--separator", default="|", help="what separates topics and other lists that are not JSON (default %(default)s)"
    )
    add("--header", default="", metavar="A,B,...", help="the columns' names, if the first line is no header")
    add("--encoding", help="such as cp1252 (default: UTF-16 if the file begins so, else UTF-8)")
    _placing_options(parser, keep_dates=True)
    add(
        "--escape-ids",
        action="store_true",
        help="encode ids with characters that ids cannot have, instead of rejecting",
    )
    parser.set_defaults(run=lambda options: _run(options, _csv_format(options), Placing(options.keep_dates)))


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="plain or gzip")
    parser.add_argument(
        "--dry-run", action="store_true", help="write nothing; show what would be imported and rejected"
    )
    parser.add_argument(
        "--allow-rejected", action="store_true", help="import the rest if over 10 %% of the rows are rejected"
    )
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
        if kind not in (*REACTIONS, SKIP):
            raise InvalidInput(f"--events {word}: an interaction can become one of {', '.join(REACTIONS)}")
    return MetarankFormat(Names(options.topics, options.creator, {**TYPES, **said}))


def _metarank_placing(options: Options) -> Placing:
    return Placing(options.keep_dates, length_ms(options.stretch) if options.stretch else None)


def _csv_format(options: Options) -> CsvFormat:
    delimiter = _DELIMITERS.get(options.delimiter, options.delimiter)
    if delimiter is not None and (len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n'):
        raise InvalidInput("--delimiter must be one character, or tab")
    if not options.separator:
        raise InvalidInput("--separator must not be empty")
    check_formats(options.time_format)
    fields = field_map(options.map, ratings=options.rating_like is not None)
    if "timestamp" in fields.constants and not options.keep_dates:
        raise InvalidInput("a constant timestamp cannot be moved; leave --end-now out")
    return CsvFormat(
        fields=fields,
        types=event_types(options.events),
        defaults=_defaults(options.default, fields),
        delimiter=delimiter,
        separator=options.separator,
        header=[name.strip() for name in options.header.split(",")] if options.header else [],
        encoding=_encoding(options.encoding),
        escape_ids=options.escape_ids,
        time_formats=options.time_format,
        rating_like=options.rating_like,
    )


def _defaults(said: list[str], fields: FieldMap) -> dict[str, str]:
    found = dict(pairs("--default", said, "COLUMN=VALUE"))
    for name in found:
        if name not in fields.columns and name not in fields.columns.values():
            raise InvalidInput(f"--default {name}: --map uses no such column or field")
    return found


def _encoding(name: str | None) -> str | None:
    try:
        return name if name is None else codecs.lookup(name).name
    except LookupError as error:
        raise InvalidInput(f"--encoding {name}: there is no such encoding; try cp1252 or latin-1") from error


def length_ms(text: str) -> int:
    """Milliseconds of a length such as `14d`, `36h` or `90m`; InvalidInput for another form and for nothing."""
    found = _LENGTH.fullmatch(text.strip())
    if not found or int(found[1]) == 0:
        raise InvalidInput(f"{text!r} is not a length such as 14d, 36h or 90m")
    return int(found[1]) * _UNITS[found[2]]


def _run(options: Options, form: Format, placing: Placing) -> int:
    clock = system_clock
    if options.at is not None:
        moment = _moment(options.at)
        clock = lambda: moment  # noqa: E731
    batch = build(settings.load(os.environ), clock=clock, quiet=options.json)
    source = Source(options.file)
    held = nullcontext() if options.dry_run else lease(batch.settings.home)
    with held, watching(source, quiet=options.json) as watch:
        outcome = Importer(batch, source, form, watch).run(
            placing,
            dry_run=options.dry_run,
            allow_rejected=options.allow_rejected,
            allow_ratings=getattr(options, "allow_ratings", False),
        )
    if options.json:
        sys.stdout.write(f"{msgspec.json.encode(as_json(outcome)).decode()}\n")
    else:
        mapped = form.fields.text if isinstance(form, CsvFormat) else ""
        show(outcome, [f"Columns: {mapped}"] if mapped else [], Console())
    imported = outcome.again or outcome.events or (outcome.duplicates and not outcome.rejected.count)
    return 0 if imported and not outcome.stopped else 1


def _moment(text: str) -> int:
    try:
        return to_ms(datetime.fromisoformat(text))
    except ValueError as error:
        raise InvalidInput(f"--at {text!r} is not a time such as 2026-11-22T12:00:00Z", field="at") from error


@contextmanager
def watching(source: Source, *, quiet: bool) -> Iterator[Watch]:
    """A bar for each pass over the file, on standard error if it is a terminal."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as progress:

        def watch(what: str) -> OnRead:
            task = progress.add_task(what, total=source.size)
            return lambda read: progress.update(task, completed=read)

        yield watch
