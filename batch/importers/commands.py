"""`pingfeed import metarank` and `pingfeed import csv`."""

import codecs
import os
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Final, TypedDict, Unpack

from batch.importers.csv_format import CsvFormat
from batch.importers.csv_mapping import SKIP, FieldMap, check_formats, event_types, field_map, pairs
from batch.importers.formats import Format, Source
from batch.importers.importer import Importer, Placing
from batch.importers.metarank import REACTIONS, TYPES, MetarankFormat, Names
from batch.importers.report import as_json, show
from batch.ops import signals_rebuild
from batch.wiring import build
from pingfeed import settings
from pingfeed.core.clock import DAY_MS, system_clock
from pingfeed.core.errors import InvalidInput
from pingfeed.terminal import print_json

_DELIMITERS: Final = {"tab": "\t", "\\t": "\t", "space": " "}
_LENGTH: Final = re.compile(r"(\d+)([smhd])")
_UNITS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": DAY_MS}


class Common(TypedDict):
    """The options of every import."""

    file: Path
    keep_dates: bool
    end_now: bool
    dry_run: bool
    allow_rejected: bool
    at: int | None
    json: bool


def import_metarank(
    *, stretch: str | None, events: list[str], topics: str, creator: str, **common: Unpack[Common]
) -> int:
    """`pingfeed import metarank`."""
    types = event_types(events)
    for word, kind in types.items():
        if kind not in (*REACTIONS, SKIP):
            raise InvalidInput(f"--events {word}: an interaction can become one of {', '.join(REACTIONS)}")
    placing = Placing(common["keep_dates"], length_ms(stretch) if stretch else None)
    return _run(MetarankFormat(Names(topics, creator, {**TYPES, **types})), placing, common)


def import_csv(
    *,
    mapping: list[str],
    events: list[str],
    default: list[str],
    rating_like: float | None,
    allow_ratings: bool,
    time_format: list[str],
    delimiter: str | None,
    separator: str,
    header: str | None,
    encoding: str | None,
    escape_ids: bool,
    **common: Unpack[Common],
) -> int:
    """`pingfeed import csv`."""
    if not separator:
        raise InvalidInput("--separator must not be empty")
    check_formats(time_format)
    fields = field_map(mapping, ratings=rating_like is not None)
    if "timestamp" in fields.constants and common["end_now"]:
        raise InvalidInput("a constant timestamp cannot be moved; leave --end-now out")
    form = CsvFormat(
        fields=fields,
        types=event_types(events),
        defaults=_defaults(default, fields),
        delimiter=_delimiter(delimiter),
        separator=separator,
        header=[name.strip() for name in header.split(",")] if header else [],
        encoding=_encoding(encoding),
        escape_ids=escape_ids,
        time_formats=time_format,
        rating_like=rating_like,
    )
    return _run(form, Placing(not common["end_now"]), common, f"Columns: {fields.text}", allow_ratings=allow_ratings)


def _delimiter(text: str | None) -> str | None:
    found = _DELIMITERS.get(text or "", text)
    if found is not None and (len(found) != 1 or not found.isascii() or found in '"\r\n'):
        raise InvalidInput("--delimiter must be one character, or tab")
    return found


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


def _run(form: Format, placing: Placing, common: Common, *notes: str, allow_ratings: bool = False) -> int:
    if common["keep_dates"] and common["end_now"]:
        raise InvalidInput("--keep-dates and --end-now exclude each other")
    at, quiet = common["at"], common["json"]
    batch = build(settings.load(os.environ), clock=system_clock if at is None else lambda: at, quiet=quiet)
    held = nullcontext() if common["dry_run"] else batch.lease()
    with held, batch.progress.step(f"importing {common['file'].name}"):
        outcome = Importer(batch, Source(common["file"]), form).run(
            placing,
            dry_run=common["dry_run"],
            allow_rejected=common["allow_rejected"],
            allow_ratings=allow_ratings,
        )
        if outcome.events and not common["dry_run"]:
            signals_rebuild.rebuild(batch)
    if quiet:
        print_json(as_json(outcome))
    else:
        show(outcome, notes)
    imported = outcome.again or outcome.events or (outcome.duplicates and not outcome.rejected.count)
    return 0 if imported and not outcome.stopped else 1
