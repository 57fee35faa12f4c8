"""The rules of `pingfeed.core.events` as one SQL statement over a batch of records, made from the structs' annotations.

A wrong id, or a required field that is wrong or missing, rejects the record. A wrong optional field is dropped and
noted. Empty means absent.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, get_args, get_type_hints

import msgspec

from batch.importers.csv_mapping import SKIP, FieldMap, sql_text, time_columns, time_problem
from pingfeed.core.context import CONTEXT_FIELDS
from pingfeed.core.events import CLIENT_TYPES, MAX_AHEAD_MS, MAX_LIST, MAX_WATCH, ONE_TARGET, SYSTEM_TYPES

MAX_LABEL: Final = 128
IDS: Final = ("user_id", "ping_id", "creator_id", "request_id")
CATALOGUE: Final = ("creator_id", "topics", "duration_ms", "attributes", "facets")
"""What a record about a ping says of the ping, whatever its event type: for pings that no event introduces."""
_SPACE: Final = " \t\r\n\u00a0"
_INTEGER: Final = r"^(-?\d{1,18})(\.0*)?$"
_NUMBER: Final = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?$"


class Check(NamedTuple):
    """One reason to reject a record: where it applies, and the message about the value."""

    where: str
    field: str
    code: str
    message: Callable[[str | None], str]


@dataclasses.dataclass(frozen=True)
class Rules:
    """How a CSV's records become events."""

    fields: FieldMap
    types: Mapping[str, str] = dataclasses.field(default_factory=dict)
    defaults: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Column or field -> the text that stands for an empty one."""
    separator: str = "|"
    time_formats: Sequence[str] = ()
    rating_like: float | None = None

    def checks(self, now_ms: int) -> list[Check]:
        """The reasons for a rejection, the first that applies counts."""
        found = [Check(f"event_type IS NULL OR event_type NOT IN {_list(CLIENT_TYPES)}", *_WRONG_TYPE)]
        if self.rating_like is not None:
            found.insert(0, Check('rating IS NULL AND "r:rating" IS NOT NULL', *_NO_NUMBER))
        mapped = self.fields.fields
        wrong_id = "must be 1 to 128 of the characters A-Z a-z 0-9 . _ : @ -; --escape-ids makes other ids valid"
        for field in [str(one) for one in IDS if one in mapped]:
            where = f"{_raw(field)} IS NOT NULL AND {_name(field)} IS NULL"
            found.append(Check(where, field, "invalid_value", _about(field, wrong_id)))
        for field, types in NEEDS.items():
            needed = f"event_type IN {_list(types)}"
            if field not in mapped:
                found.append(Check(needed, field, "missing_field", _about(field, "is required", shown=False)))
                continue
            where = f"{needed} AND {_raw(field)} IS NULL"
            found.append(Check(where, field, "missing_field", _about(field, "is required", shown=False)))
            where = f"{needed} AND {_name(field)} IS NULL"
            found.append(Check(where, field, "invalid_value", _about(field, "is not valid")))
        for kind, targets in ONE_TARGET.items():
            given = " + ".join(f"({_name(one)} IS NOT NULL)::INT" for one in targets if one in mapped) or "0"
            said = _about(f"{' or '.join(targets)}:", f"{kind} needs exactly one of them", shown=False)
            found.append(Check(f"event_type = '{kind}' AND {given} <> 1", targets[0], "invalid_value", said))
        required, unread = '"r:timestamp" IS NULL', f"at_ms IS NULL OR at_ms > {now_ms + MAX_AHEAD_MS}"
        found.append(Check(required, "timestamp", "missing_field", _about("timestamp", "is required", shown=False)))
        found.append(Check("at_ms IS NULL", "timestamp", "invalid_value", time_problem(self.time_formats)))
        ahead = _about("timestamp", "is more than 24 hours ahead")
        return [*found, Check(unread, "timestamp", "timestamp_ahead", ahead)]

    def sql(self, columns: Mapping[str, int], checks: Sequence[Check]) -> str:
        """A statement over the table `records` (number, record, c0, c1, ...); `columns` gives each column's place.

        A row for each record: the columns of an event, `number`, `at_ms`, `time_kind`, `notes` (comma-separated), and
        `problem`, the place of the check that rejects it.
        """
        said = [f"{self._said(field, columns)} AS {_raw(field)}" for field in self.fields.fields]
        optional = [field for field in self.fields.fields if field not in ("event_type", "timestamp", "rating")]
        values = {field: self._value(field) for field in optional}
        lists = [
            f"{_labels(_raw(field), self.separator)} AS {_name('l:' + field)}" for field in optional if _is_list(field)
        ]
        notes = ", ".join(note for field in optional for note in self._notes(field)) or "NULL"
        problem = " ".join(f"WHEN {check.where} THEN {place}" for place, check in enumerate(checks))
        kind, at_ms = time_columns('"r:timestamp"', self.time_formats)
        own = "event_id, " if "event_id" in optional else ""
        plain = [_name(field) for field in optional if "." not in field and field != "event_id"] or ["NULL AS nothing"]
        return f"""
            WITH said AS (SELECT number, record, {", ".join(said)} FROM records),
            listed AS (SELECT {", ".join(["*", *lists, f"{kind} AS time_kind", self._rating()])} FROM said),
            typed AS (SELECT * EXCLUDE (time_kind), time_kind, {self._event_type()} AS event_type, {at_ms} AS at_ms,
                {", ".join(f"{value} AS {_name(field)}" for field, value in values.items()) or "NULL AS nothing"}
                FROM listed)
            SELECT number, event_type, at_ms, time_kind, CAST(coalesce({own}{_EVENT_ID}) AS VARCHAR) AS event_id,
                {", ".join(plain)},
                {self._named("attributes")} AS attributes, {self._named("facets")} AS facets,
                nullif(concat_ws(',', {notes}), '') AS notes,
                CASE WHEN event_type = '{SKIP}' THEN NULL {problem} END AS problem
            FROM typed"""  # noqa: S608

    def _said(self, field: str, columns: Mapping[str, int]) -> str:
        """A field's text, trimmed; null where it is empty and has no default."""
        if field in self.fields.constants:
            return sql_text(self.fields.constants[field])
        column = self.fields.columns[field]
        found = f"nullif(trim(c{columns[column]}, {sql_text(_SPACE)}), '')"
        default = self.defaults.get(column, self.defaults.get(field))
        found = found if default is None else f"coalesce({found}, {sql_text(default)})"
        return _NORMALISED.get(field, "{}").format(found)

    def _rating(self) -> str:
        return f"{_number(_raw('rating'))} AS rating" if self.rating_like is not None else "NULL AS rating"

    def _event_type(self) -> str:
        kind = "NULL"
        if "event_type" in self.fields.fields:
            words = " ".join(f"WHEN {sql_text(word)} THEN {sql_text(meant)}" for word, meant in self.types.items())
            kind = f"CASE {_raw('event_type')} {words} ELSE {_raw('event_type')} END" if words else _raw("event_type")
        if self.rating_like is None:
            return kind
        rated = f"WHEN rating >= {self.rating_like} THEN 'like' WHEN rating IS NOT NULL THEN 'impression'"
        return f"CASE {rated} ELSE {kind} END"

    def _value(self, field: str) -> str:
        """A field's value, null where its text is not valid."""
        raw = _raw(field)
        if field.startswith("attributes."):
            return f"CASE WHEN isfinite({_number(raw)}) THEN {_number(raw)} END"
        if _is_list(field):
            cut = f"list_transform({_name('l:' + field)}, lambda x: x[:{MAX_LABEL}])"
            return f"list_filter({cut}, lambda x, i: list_position({cut}, x) = i)[:{MAX_LIST}]"
        rule = RULES[field]
        if rule.kind is str:
            fits = f"regexp_full_match({raw}, {sql_text(rule.pattern)})" if rule.pattern else "true"
            return f"CASE WHEN {fits} AND length({raw}) <= {rule.longest or 1000} THEN {raw} END"
        value = _number(raw) if rule.kind is float else f"TRY_CAST(regexp_extract({raw}, '{_INTEGER}', 1) AS BIGINT)"
        if field == "watch_time_ratio":  # More than ten full watches count as ten.
            value = f"least({value}, {rule.most})"
        return f"CASE WHEN {value} BETWEEN {rule.least} AND {rule.most} THEN {value} END"

    def _notes(self, field: str) -> list[str]:
        """What is noted of a field that lost its value, or a part of it. Wrong ids reject the record instead."""
        base = field.partition(".")[0]
        if field in IDS or field in self.fields.constants:
            return []
        there = f"{_raw(field)} IS NOT NULL"
        where = "" if base in CATALOGUE else f" AND event_type IN {_list(HAS[field])}"
        found = [f"CASE WHEN {there} AND {_name(field)} IS NULL{where} THEN '{field} dropped' END"]
        if field == "watch_time_ratio":
            most = RULES[field].most
            found.append(f"CASE WHEN {_number(_raw(field))} > {most}{where} THEN '{field} capped at {most:g}' END")
        if _is_list(field):
            labels = _name("l:" + field)
            long = f"len(list_filter({labels}, lambda x: length(x) > {MAX_LABEL})) > 0 OR len({labels}) > {MAX_LIST}"
            found.append(f"CASE WHEN {long} THEN '{field} cut' END")
        return found

    def _named(self, base: str) -> str:
        """The map of the fields `base.NAME` that have a value."""
        fields = [field for field in self.fields.fields if field.startswith(f"{base}.")]
        entries = ", ".join(f"{{'k': '{field.partition('.')[2]}', 'v': {_name(field)}}}" for field in fields)
        there = "len(e.v) > 0" if base == "facets" else "e.v IS NOT NULL"
        return f"map_from_entries(list_filter([{entries}], lambda e: {there}))" if fields else "NULL"


class Rule(NamedTuple):
    """What the text of one field must be like."""

    kind: type
    pattern: str | None = None
    longest: int | None = None
    least: float | None = None
    most: float | None = None


def _rule(hint: Any) -> Rule:
    """The rule of a field's annotation."""
    known = [one for one in get_args(hint) if one is not type(None)] if not hasattr(hint, "__metadata__") else []
    hint = known[0] if known else hint
    metas = [meta for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, msgspec.Meta)]
    base = hint.__origin__ if metas else hint
    kind = getattr(base, "__origin__", base)
    if not metas or kind in (list, dict, datetime):
        return Rule(kind)
    meta = metas[0]
    # RE2 has no look-ahead, and a full match needs no anchors.
    pattern = meta.pattern.removeprefix("^").removesuffix(r"(?!\n)$") if meta.pattern else None
    return Rule(kind, pattern, meta.max_length, meta.ge, meta.le)


RULES: Final = {
    field: _rule(CONTEXT_FIELDS.get(field, hint))
    for struct in CLIENT_TYPES.values()
    for field, hint in get_type_hints(struct, include_extras=True).items()
    if field in struct.__struct_fields__
}
"""Each field of an event with its rule."""
RULES["watch_time_ratio"] = RULES["watch_time_ratio"]._replace(most=MAX_WATCH)
HAS: Final = {
    field: [kind for kind, struct in CLIENT_TYPES.items() if field in struct.__struct_fields__] for field in RULES
}
"""Field -> the event types that carry it; other types leave it out."""
NEEDS: Final[dict[str, list[str]]] = {}
"""Field -> the event types that require it."""
for _kind, _struct in CLIENT_TYPES.items():
    for _one in msgspec.structs.fields(_struct):
        if _one.required:
            NEEDS.setdefault(_one.name, []).append(_kind)

_NORMALISED: Final = {"country": "upper({})", "language": "replace({}, '_', '-')", "event_id": "lower({})"}
_EVENT_ID: Final = (
    "regexp_replace(md5(event_type || chr(31) || record), '^(.{12}).(.{3}).(.{15})$', '\\18\\28\\3')::UUID::VARCHAR"
)
"""A UUID (version 8) of the record's cells and its event type: identical records are one event, in any file."""


def _unknown_type(value: str | None) -> str:
    if value is None:
        return "event_type is required"
    if value in SYSTEM_TYPES:
        return f"event_type {value} is written by the system only"
    return f"event_type {value!r} is not one of {', '.join(CLIENT_TYPES)}; --events {value}=like, for example, maps it"


_WRONG_TYPE: Final = ("event_type", "unknown_event_type", _unknown_type)


def _about(field: str, rule: str, *, shown: bool = True) -> Callable[[str | None], str]:
    return lambda value: f"{field} {value!r} {rule}" if shown else f"{field} {rule}"


_NO_NUMBER: Final = ("rating", "invalid_value", _about("rating", "is not a number"))


def _labels(raw: str, separator: str) -> str:
    """A JSON list, or labels between separators, as a list of trimmed texts; null for a broken JSON list."""
    split = f"""CASE WHEN {raw}[1] = '[' AND json_valid({raw}) THEN from_json({raw}, '["VARCHAR"]')
        WHEN {raw}[1] = '[' THEN TRY_CAST({raw} AS VARCHAR[]) ELSE string_split({raw}, {sql_text(separator)}) END"""
    return f"list_filter(list_transform({split}, lambda x: trim(x, {sql_text(_SPACE)})), lambda x: x <> '')"


def _is_list(field: str) -> bool:
    return field.startswith("facets.") or (field in RULES and RULES[field].kind is list)


def _number(raw: str) -> str:
    return f"TRY_CAST(regexp_extract({raw}, '{_NUMBER}') AS DOUBLE)"


def _raw(field: str) -> str:
    """The column of a field's text, as the log has it."""
    return _name(f"r:{field}")


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _list(texts: Iterable[str]) -> str:
    return f"({', '.join(map(sql_text, texts))})"
