"""Which ids stand in a document that is no row: of whom it may be.

A document that says whose it is is believed: then the value of `user_id`, however that is spelt, is the only one; a
creator's stays, as it does in rows. Where no user is named so, any value may be one, in JSON within a string too; but
none of the schema's other columns, and the name of a value is none. Of what is no JSON, ids are words in quotes that
are no words of the schema, and whatever stands after `user_id`. So who is called `view` takes nothing of others along.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from pingfeed.core.events import CLIENT_TYPES, COLUMNS, SYSTEM_TYPES

_QUOTED: Final = re.compile(r"(?<=[\"'])[A-Za-z0-9._:@-]{1,128}(?=\\*[\"'])")
_NAMED: Final = re.compile(r"user_?id[\"'\\]*\s*[:=]\s*[\"'\\]*([A-Za-z0-9._:@-]{1,128})", re.IGNORECASE)
_ID: Final = re.compile(r"[A-Za-z0-9._:@-]{1,128}")
_SCHEMA: Final = frozenset(column.name for column in COLUMNS)
_WORDS: Final = _SCHEMA | {"timestamp", "sent_at"} | set(CLIENT_TYPES) | SYSTEM_TYPES
_ELSEWHERE: Final = _SCHEMA - {"user_id", "creator_id", "extra"}
"""Columns in which no user's id stands."""


def ids_in(text: str) -> set[str]:
    """What may be a user's id in a document, or in a piece of one."""
    try:
        values: Any = msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, RecursionError):
        return words_in(text)
    if not isinstance(values, dict):
        return words_in(text)
    users = {str(value) for name, value in values.items() if _is_user(name, value)}
    if users:
        return users
    return set(_values({name: value for name, value in values.items() if name not in _ELSEWHERE}))


def words_in(text: str) -> set[str]:
    """The same of a text that may be anything."""
    return {word for word in _QUOTED.findall(text) if word not in _WORDS} | set(_NAMED.findall(text))


def _is_user(name: str, value: Any) -> bool:
    plain = name.lower().replace("_", "").replace("-", "")
    return plain == "userid" and value is not None and _ID.fullmatch(str(value)) is not None


def _values(value: Any) -> Iterator[str]:
    """The ids in a value, however deep; names of values are passed over."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _values(one)
    elif value is not None:
        yield from {word for word in [str(value)] if _ID.fullmatch(word)} | words_in(str(value))
