"""Columns of text as columns of events: words become event types, texts become values, and each rule is checked once.

A line that breaks a rule is looked at alone, by `events.to_row`, which says what a client would have been told.
"""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batch.importers.csv_text import Texts
from batch.importers.formats import Piece, Times
from batch.importers.ids import ID, as_id, event_ids
from batch.importers.mapping import LEFT_OUT, FieldMap
from batch.importers.refused import refused
from batch.importers.rules import HAS, NEEDS, RULES, TYPES, Bools, checked
from batch.importers.times import read_column, read_ms
from pingfeed.core.clock import to_iso
from pingfeed.core.errors import InvalidInput
from pingfeed.core.events import MAX_AHEAD_MS, to_row

_IDS: Final = ("user_id", "ping_id", "creator_id", "request_id")
_CODES: Final = pa.array(TYPES)


class EventMaker:
    """Makes events of one log's texts."""

    def __init__(self, fields: FieldMap, types: Mapping[str, str], *, separator: str, escape_ids: bool) -> None:
        self._fields = fields
        self._types = types
        self._separator = separator
        self._escape_ids = escape_ids

    def piece(self, texts: Texts, times: Times, room: int) -> Piece:
        """The block's events. Up to `room` refusals are explained."""
        said = self._said(texts)
        values, bad = self._values(said, times)
        skipped = _where(values["event_type"], LEFT_OUT)
        bad &= ~skipped
        good = ~bad & ~skipped
        explained = [
            refused(int(texts.numbers[at]), self._problem(said, at, times), texts.lines[at])
            for at in np.flatnonzero(bad)[:room].tolist()
        ]
        broken = [refused(number, problem, line) for number, line, problem in texts.broken[:room]]
        table = pa.table(values | {"event_id": self._event_ids(texts, values)}).filter(pa.array(good))
        return Piece(
            lines=len(texts.lines) + len(texts.broken),
            events=table,
            mentions=_mentions(said, table, good),
            refused=sorted([*explained, *broken], key=lambda one: one.line)[:room],
            refused_count=int(bad.sum()) + len(texts.broken),
            left_out=int(skipped.sum()),
        )

    def _said(self, texts: Texts) -> dict[str, pa.Array]:
        """Each mapped field's text, as far as the log's words need no rule to become ours."""
        n = len(texts.lines)
        said = {field: texts.columns[column] for field, column in self._fields.columns.items()}
        said |= {field: pa.repeat(pa.scalar(text), n) for field, text in self._fields.constants.items()}
        said["event_type"] = _renamed(said["event_type"], self._types)
        if "country" in said:
            said["country"] = pc.utf8_upper(said["country"])
        if self._escape_ids:
            said |= {field: _escaped(said[field], field) for field in _IDS if field in said}
        return said

    def _values(self, said: Mapping[str, pa.Array], times: Times) -> tuple[dict[str, Any], Bools]:
        """Columns of the event schema, and which records break a rule."""
        code = pc.index_in(said["event_type"], value_set=_CODES).fill_null(-1).to_numpy()
        known = code >= 0
        bad = ~known
        values: dict[str, Any] = {"event_type": said["event_type"]}
        for field, texts in said.items():
            if field in ("event_type", "timestamp"):
                continue
            column, wrong = checked(RULES[field], texts, self._separator)
            has = known & HAS[field][code]
            bad |= has & wrong
            values[field] = pc.if_else(pa.array(has), column, pa.scalar(None, column.type))
        for field, needs in NEEDS.items():
            if needs.any() and field not in ("event_type", "timestamp"):
                bad |= known & needs[code] & ~_there(values.get(field), len(code))
        if "event_id" in values:
            values["event_id"] = pc.utf8_lower(values["event_id"])
        at_ms, readable = read_column(said["timestamp"])
        placed = times.timeline.place(at_ms)
        values["timestamp_ms"] = pa.array(placed)
        values["received_ms"] = pa.array(np.minimum(placed, times.end_ms))
        return values, bad | ~readable | (at_ms > times.now_ms + MAX_AHEAD_MS)

    def _event_ids(self, texts: Texts, values: Mapping[str, Any]) -> pa.Array:
        """The log's own event ids; where it has none, UUIDs of line number, event type and the line's bytes."""
        kinds = values["event_type"].fill_null("").to_pylist()
        numbers = texts.numbers.tolist()
        digests = [
            blake2b(b"%d %b " % (number, kind.encode()) + line, digest_size=16).digest()
            for number, kind, line in zip(numbers, kinds, texts.lines, strict=True)
        ]
        made = event_ids(digests)
        return pc.coalesce(values["event_id"], made) if "event_id" in values else made

    def _problem(self, said: Mapping[str, pa.Array], at: int, times: Times) -> InvalidInput:
        """Why a record is refused, in the words that a client would get."""
        event = {field: self._as_sent(field, texts[at].as_py()) for field, texts in said.items()}
        written = event.pop("timestamp", None)
        try:
            if written is not None and event["event_type"] in TYPES:
                event["timestamp"] = to_iso(read_ms(written))
            to_row({field: value for field, value in event.items() if value is not None}, times.now_ms, str)
        except InvalidInput as error:
            return error
        return InvalidInput("timestamp is required", field="timestamp", code="missing_field")

    def _as_sent(self, field: str, text: str | None) -> Any:
        """A text as the JSON value that it stands for, as far as it is one."""
        kind = RULES[field].kind
        if text is None or kind in ("text", "time"):
            return text
        value, wrong = checked(RULES[field], pa.array([text]), self._separator)
        if kind == "labels":
            return [label.strip() for label in text.split(self._separator) if label.strip()]
        if not wrong[0]:
            return value[0].as_py()
        try:
            return float(text) if kind == "number" else int(text)
        except ValueError:
            return text


def _mentions(said: Mapping[str, pa.Array], table: pa.Table, good: Bools) -> pa.Table:
    """What the good records say of the pings that they mention."""
    mask = pa.array(good)
    columns = {"ping_id": _or_none(table, "ping_id"), "received_ms": table["received_ms"]}
    if "creator_id" in said:
        fits = ~checked(RULES["creator_id"], said["creator_id"], "")[1]
        columns["creator_id"] = pc.if_else(pa.array(fits), said["creator_id"], pa.scalar(None, pa.string())).filter(
            mask
        )
    if "topics" in said:
        columns["topics"] = said["topics"].filter(mask)
    if "duration_ms" in said:
        columns["duration_ms"] = checked(RULES["duration_ms"], said["duration_ms"], "")[0].filter(mask)
    about = pc.and_(pc.is_valid(columns["ping_id"]), pc.not_equal(table["event_type"], "ping_deleted"))
    return pa.table(columns).filter(about)


def _or_none(table: pa.Table, name: str) -> Any:
    return table[name] if name in table.column_names else pa.nulls(table.num_rows, pa.string())


def _renamed(words: pa.Array, types: Mapping[str, str]) -> pa.Array:
    """The log's words for acts as event types; a word that nobody mapped stays."""
    coded = words.dictionary_encode()
    names = [types.get(word, word) for word in coded.dictionary.to_pylist()]
    return pa.array(names, pa.string()).take(coded.indices)


def _escaped(ids: pa.Array, field: str) -> pa.Array:
    """Ids with those that are not valid made so."""
    wrong = pc.invert(pc.match_substring_regex(ids, f"^{ID.pattern}$"))
    if not pc.any(wrong).as_py():
        return ids
    odd = pc.unique(ids.filter(wrong)).to_pylist()
    fixed = pa.array([as_id(text, field) for text in odd], pa.string())
    return pc.coalesce(fixed.take(pc.index_in(ids, value_set=pa.array(odd, pa.string()))), ids)


def _where(column: pa.Array, text: str) -> Bools:
    found: Bools = pc.equal(column, text).fill_null(False).to_numpy(zero_copy_only=False)
    return found


def _there(column: Any, n: int) -> Bools | NDArray[np.bool_]:
    return np.zeros(n, bool) if column is None else column.is_valid().to_numpy(zero_copy_only=False)
