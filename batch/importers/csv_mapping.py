"""What the caller says about a CSV: the column or constant of each field, what the words mean, how times are written.

user_id=customer,ping_id=item,event_type=action,timestamp=at       columns
event_type==like                                                   a constant
attributes.price=price,facets.tags=tags                            a ping's named numbers and lists
rating=stars                                                       with --rating-like

Times become SQL: epochs, Excel serials and ISO 8601 are recognised by their form, others need --time-format.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import duckdb

from pingfeed.core.errors import InvalidInput
from pingfeed.core.events import CLIENT_TYPES

SKIP: Final = "skip"
"""Used in place of an event type: rows with that word are left out and are no mistake."""
_NAMED: Final = re.compile(r"(attributes|facets)\.[a-z][a-z0-9_]{0,31}")
FIELDS: Final = sorted(
    {"event_type", "rating"}.union(*(struct.__struct_fields__ for struct in CLIENT_TYPES.values()))
    - {"sent_at", "attributes", "facets"}
)
EARLIEST_MS: Final = 946_684_800_000  # 2000-01-01
LATEST_MS: Final = 4_102_444_800_000  # 2100-01-01
_EXCEL_EPOCH: Final = 25_569
"""Days from 1899-12-30, the spreadsheets' day 0, to 1970-01-01."""
_EPOCHS: Final = {"seconds": 1000.0, "milliseconds": 1.0, "microseconds": 1e-3, "nanoseconds": 1e-6}
_ISO: Final = r"\d{4}[-/]\d{1,2}[-/]\d{1,2}([T ].*)?"
_DAY_OR_MONTH: Final = re.compile(r"(\d{1,2})([./-])(\d{1,2})[./-](\d{4}|\d\d)(.*)", re.DOTALL)


@dataclass(frozen=True)
class FieldMap:
    """Our fields by where their values come from: a column of the log, or the same text for every row."""

    columns: Mapping[str, str]
    constants: Mapping[str, str]

    @property
    def text(self) -> str:
        """The mapping as it could be given again, in a fixed order."""
        pairs = {field: f"{field}={column}" for field, column in self.columns.items()}
        pairs |= {field: f"{field}=={value}" for field, value in self.constants.items()}
        return ",".join(pairs[field] for field in sorted(pairs))

    @property
    def fields(self) -> list[str]:
        """Every field that has a source."""
        return [*self.columns, *self.constants]


def field_map(said: Sequence[str], *, ratings: bool = False) -> FieldMap:
    """The mapping; InvalidInput for a field that does not exist, is given twice or is missing."""
    columns: dict[str, str] = {}
    constants: dict[str, str] = {}
    for field, value in pairs("--map", said, "FIELD=COLUMN, or FIELD==VALUE for the same value in every row"):
        if field not in FIELDS and not _NAMED.fullmatch(field):
            raise InvalidInput(f"--map {field}: it is not one of {', '.join(FIELDS)}, attributes.NAME, facets.NAME")
        if field in columns or field in constants:
            raise InvalidInput(f"--map names {field} twice")
        (constants if value.startswith("=") else columns)[field] = value.removeprefix("=")
    if ratings and "rating" not in columns:
        if "watch_time_ratio" not in columns:
            raise InvalidInput("--rating-like needs the column of the ratings: --map rating=COLUMN")
        columns["rating"] = columns.pop("watch_time_ratio")
    made = FieldMap(columns, constants)
    if not ratings and "rating" in made.fields:
        raise InvalidInput("--map rating needs --rating-like, such as --rating-like 4: ratings from 4 up become likes")
    for field in ("timestamp",) if ratings else ("event_type", "timestamp"):
        if field not in made.fields:
            raise InvalidInput(f"--map does not say where {field} comes from: {field}=COLUMN or {field}==VALUE")
    return made


def event_types(said: Sequence[str]) -> dict[str, str]:
    """`buy=like,click=view` as a dictionary; InvalidInput for what is not one of our event types."""
    found = dict(pairs("--events", said, "WORD=TYPE"))
    for word, kind in found.items():
        if kind not in CLIENT_TYPES and kind != SKIP:
            raise InvalidInput(f"--events {word}={kind}: a type is one of {', '.join([*CLIENT_TYPES, SKIP])}")
    return found


def pairs(option: str, said: Sequence[str], form: str) -> list[tuple[str, str]]:
    """Comma-separated `name=value` texts as pairs; InvalidInput for one without a name or a value."""
    found = []
    for pair in (pair.strip() for text in said for pair in text.split(",")):
        name, _, value = pair.partition("=")
        if pair and not (name and value.removeprefix("=")):
            raise InvalidInput(f"{option} {pair}: write {form}")
        if pair:
            found.append((name, value))
    return found


def time_columns(raw: str, formats: Sequence[str]) -> tuple[str, str]:
    """SQL of a time's kind, and of its epoch milliseconds given `time_kind`; null for what is no time of 2000 to 2099.

    The ranges of these kinds do not meet, so a number says itself what it counts.
    """
    if formats:
        kinds = " ".join(
            f"WHEN try_strptime({raw}, {sql_text(one)}) IS NOT NULL THEN {sql_text(one)}" for one in formats
        )
        values = " ".join(
            f"WHEN {sql_text(one)} THEN epoch_ms(try_strptime({raw}, {sql_text(one)}))" for one in formats
        )
        return f"CASE {kinds} END", _bounded(f"CASE time_kind {values} END")
    number = f"TRY_CAST({raw} AS DOUBLE)"
    numbers = {
        f"epoch {unit}": (f"{number} * {scale}", EARLIEST_MS / scale, LATEST_MS / scale)
        for unit, scale in _EPOCHS.items()
    }
    day = 86_400_000
    excel = (EARLIEST_MS / day + _EXCEL_EPOCH, LATEST_MS / day + _EXCEL_EPOCH)
    numbers["Excel serial days"] = (f"({number} - {_EXCEL_EPOCH}) * {day}.0", *excel)
    ranges = " ".join(
        f"WHEN {number} >= {low} AND {number} < {high} THEN '{kind}'" for kind, (_, low, high) in numbers.items()
    )
    kind = rf"""CASE WHEN regexp_full_match({raw}, '20\d\d[01]\d[0-3]\d') THEN 'YYYYMMDD'
        WHEN regexp_full_match({raw}, '\d{{1,19}}(\.\d*)?') THEN CASE {ranges} END
        WHEN regexp_full_match({raw}, '{_ISO}') THEN 'ISO 8601' END"""
    values = " ".join(f"WHEN '{kind}' THEN CAST(round({value}) AS BIGINT)" for kind, (value, _, _) in numbers.items())
    dashed = rf"regexp_replace({raw}, '^(\d+)/(\d+)/', '\1-\2-')"
    return kind, _bounded(f"""CASE time_kind WHEN 'YYYYMMDD' THEN epoch_ms(try_strptime({raw}, '%Y%m%d'))
        WHEN 'ISO 8601' THEN epoch_ms(TRY_CAST({dashed} AS TIMESTAMPTZ)) {values} END""")


def check_formats(formats: Sequence[str]) -> None:
    """InvalidInput for a format that no time can have."""
    for one in formats:
        try:
            duckdb.sql(f"SELECT try_strptime('', {sql_text(one)})")
        except duckdb.Error as error:
            raise InvalidInput(f"--time-format {one!r} is not a strptime format such as '%m/%d/%Y %H:%M'") from error


def time_problem(formats: Sequence[str]) -> Callable[[str | None], str]:
    """The sentence about a time that cannot be read."""

    def explain(value: str | None) -> str:
        found = _DAY_OR_MONTH.fullmatch(value or "")
        if formats:
            return (
                f"timestamp {value!r} is not a time of 2000 to 2099 in the form of --time-format {' or '.join(formats)}"
            )
        if found:
            return f"timestamp {value!r} may put the day or the month first: use --time-format '{_suggested(found)}'"
        return (
            f"timestamp {value!r} is not a time of 2000 to 2099 in ISO 8601, epoch seconds, milliseconds or "
            "microseconds, or Excel serial days; --time-format describes another form"
        )

    return explain


def _suggested(found: re.Match[str]) -> str:
    """The formats that a date such as 03/04/2025 10:00 may have."""
    first, mark, second, year, rest = found.groups()
    clock = ("%I" if rest[-1:] in "mM" else "%H") + (":%M:%S" if rest.count(":") > 1 else ":%M")
    clock = f" {clock}" + (" %p" if rest[-1:] in "mM" else "") if ":" in rest else ""
    dates = {"%m/%d": int(second) > 12 or int(first) <= 12, "%d/%m": int(first) > 12 or int(second) <= 12}
    end = f"{mark}{'%Y' if len(year) == 4 else '%y'}{clock}"
    return "' or '".join(f"{date.replace('/', mark)}{end}" for date, possible in dates.items() if possible)


def _bounded(ms: str) -> str:
    return f"CASE WHEN {ms} >= {EARLIEST_MS} AND {ms} < {LATEST_MS} THEN {ms} END"


def sql_text(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"
