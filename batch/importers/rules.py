"""The rules of `pingfeed.core.events` over columns: the same patterns and bounds, read from the same structs.

Whatever these checks let through, `events.to_row` lets through too, and the other way round; only what they stop is
looked at line by line, to say why.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, get_args, get_type_hints

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batch.importers.labels import MAX_LABEL
from pingfeed.core.events import CLIENT_TYPES, MAX_LIST

Bools = NDArray[np.bool_]
_INTEGER: Final = r"^-?\d{1,18}$"
_NUMBER: Final = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?$"
_LEFT_TO_US: Final = frozenset({"sent_at", "attributes", "facets"})
"""Fields of an event that a column of text cannot fill."""


@dataclass(frozen=True)
class Rule:
    """What the text of one field must be like, and what it becomes."""

    kind: Literal["text", "integer", "number", "time", "labels"]
    pattern: str | None = None
    longest: int | None = None
    least: float | None = None
    most: float | None = None


_KINDS: Final[Mapping[Any, Literal["text", "integer", "number", "time", "labels"]]] = {
    str: "text",
    int: "integer",
    float: "number",
    datetime: "time",
    list: "labels",
}


def _rule(hint: Any) -> Rule:
    """The rule of a field's annotation. A labels' own bounds are kept by `labels`."""
    known = [one for one in get_args(hint) if one is not type(None)] if not hasattr(hint, "__metadata__") else []
    if known:
        hint = known[0]
    metas = [meta for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, msgspec.Meta)]
    base = hint.__origin__ if metas else hint
    kind = _KINDS[getattr(base, "__origin__", base)]
    if kind == "labels" or not metas:
        return Rule(kind)
    meta = metas[0]
    # RE2 knows no look-ahead, and its `$` is the end of the text alone: what `(?!\n)$` says in Python.
    pattern = meta.pattern.replace(r"(?!\n)", "") if meta.pattern else None
    return Rule(kind, pattern, meta.max_length, meta.ge, meta.le)


def _rules() -> dict[str, Rule]:
    found = {"event_type": Rule("text")}
    for struct in CLIENT_TYPES.values():
        for field, hint in get_type_hints(struct, include_extras=True).items():
            if field in struct.__struct_fields__ and field not in _LEFT_TO_US:
                found.setdefault(field, _rule(hint))
    return found


RULES: Final = _rules()
"""The fields that a log can fill, each with its rule."""
TYPES: Final = tuple(CLIENT_TYPES)
"""Event types; their places here are the codes below."""


def _table(has: Mapping[str, set[str]]) -> dict[str, Bools]:
    return {field: np.array([field in has[kind] for kind in TYPES]) for field in RULES}


HAS: Final = _table({kind: set(struct.__struct_fields__) | {"event_type"} for kind, struct in CLIENT_TYPES.items()})
"""Field -> which event types carry it; elsewhere its value is left out."""
NEEDS: Final = _table(
    {
        kind: {one.name for one in msgspec.structs.fields(struct) if one.required} | {"timestamp"}
        for kind, struct in CLIENT_TYPES.items()
    }
)
"""Field -> which event types cannot be without it. History without a time has no place."""


def checked(rule: Rule, texts: pa.Array, separator: str) -> tuple[pa.Array, Bools]:
    """The values of a column of text (null where it has none), and where the text breaks the rule.

    A value that breaks it is null. Not for times, which `times.read_column` reads.
    """
    if rule.kind == "labels":
        return labels(texts, separator)
    if rule.kind == "text":
        good = _fitting(rule, texts)
        return texts, ~good
    form = pc.match_substring_regex(texts, _INTEGER if rule.kind == "integer" else _NUMBER)
    values = pc.if_else(form, texts, None).cast(pa.int64() if rule.kind == "integer" else pa.float64())
    good = _true(form)
    if rule.least is not None:
        good &= _true(pc.greater_equal(values, rule.least))
    if rule.most is not None:
        good &= _true(pc.less_equal(values, rule.most))
    return pc.if_else(pa.array(good), values, None), ~good & _true(texts.is_valid())


def labels(texts: pa.Array, separator: str) -> tuple[pa.Array, Bools]:
    """Texts such as `bread|soup` as lists of labels, trimmed; null where there is none. What does not fit is cut.

    The second is true where something was cut: a label beyond the 64th, or characters of one beyond the 128th.
    """
    lists = pc.split_pattern(texts, separator)
    flat = pc.utf8_trim_whitespace(pc.list_flatten(lists))
    some = _true(pc.not_equal(flat, ""))
    parent = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)[some]
    flat = flat.filter(pa.array(some))
    room = np.arange(len(parent)) - np.searchsorted(parent, parent) < MAX_LIST
    too_long = _true(pc.greater(pc.utf8_length(flat), MAX_LABEL))
    cut = np.zeros(len(texts), bool)
    cut[parent[~room | too_long]] = True
    counts = np.bincount(parent[room], minlength=len(texts))
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32), mask=np.append(counts == 0, False))
    return pa.ListArray.from_arrays(offsets, pc.utf8_slice_codeunits(flat.filter(pa.array(room)), 0, MAX_LABEL)), cut


def _fitting(rule: Rule, texts: pa.Array) -> Bools:
    """Where the text keeps the rule, or there is none."""
    good = np.ones(len(texts), bool)
    if rule.pattern is not None:
        good &= _true(pc.match_substring_regex(texts, rule.pattern))
    if rule.longest is not None:
        good &= _true(pc.less_equal(pc.utf8_length(texts), rule.longest))
    return good | ~_true(texts.is_valid())


def _true(values: pa.Array) -> Bools:
    """True where an Arrow boolean is true; null is not."""
    found: Bools = values.fill_null(False).to_numpy(zero_copy_only=False)
    return found
