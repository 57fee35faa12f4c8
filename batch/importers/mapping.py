"""What the caller says about a log: which column or constant each of our fields takes, and what its words mean.

user_id=customer,ping_id=item,event_type=action,timestamp=at       columns
event_type==like                                                   a constant
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from batch.importers.rules import RULES
from pingfeed.core.errors import InvalidInput
from pingfeed.core.events import CLIENT_TYPES

SKIP: Final = "skip"
"""Said in place of an event type: lines of that word are left out, and are no mistake."""
LEFT_OUT: Final = "\0"
"""What such a word becomes: no log's own word."""
_NEEDED: Final = ("event_type", "timestamp")


@dataclass(frozen=True)
class FieldMap:
    """Our fields by where their values come from: a column of the log, or the same text for every line."""

    columns: Mapping[str, str]
    constants: Mapping[str, str]

    @property
    def text(self) -> str:
        """The mapping as it could be said again, in a fixed order."""
        pairs = {field: f"{field}={column}" for field, column in self.columns.items()}
        pairs |= {field: f"{field}=={value}" for field, value in self.constants.items()}
        return ",".join(pairs[field] for field in sorted(pairs))


def field_map(said: Sequence[str]) -> FieldMap:
    """The mapping that comma-separated texts say; InvalidInput for what is no field of ours, said twice or missing."""
    columns: dict[str, str] = {}
    constants: dict[str, str] = {}
    for pair in _pairs(said):
        field, _, value = pair.partition("=")
        if field not in RULES:
            raise InvalidInput(f"--map {pair}: {field} is not one of {', '.join(sorted(RULES))}")
        if field in columns or field in constants:
            raise InvalidInput(f"--map names {field} twice")
        if not value.lstrip("="):
            raise InvalidInput(f"--map {pair}: say {field}=COLUMN, or {field}==VALUE for the same value in every line")
        if value.startswith("="):
            constants[field] = value[1:]
        else:
            columns[field] = value
    for field in _NEEDED:
        if field not in columns and field not in constants:
            raise InvalidInput(f"--map does not say where {field} comes from: {field}=COLUMN or {field}==VALUE")
    return FieldMap(columns, constants)


def event_types(said: Sequence[str]) -> dict[str, str]:
    """`buy=like,click=view` as a dictionary, `skip` as LEFT_OUT; InvalidInput for what is no event type of ours."""
    found: dict[str, str] = {}
    for pair in _pairs(said):
        word, equals, kind = pair.rpartition("=")
        if not equals or not word or (kind not in CLIENT_TYPES and kind != SKIP):
            raise InvalidInput(
                f"--events {pair}: say WORD=TYPE, a type being one of {', '.join([*CLIENT_TYPES, SKIP])}"
            )
        found[word] = LEFT_OUT if kind == SKIP else kind
    return found


def _pairs(said: Sequence[str]) -> list[str]:
    return [pair.strip() for text in said for pair in text.split(",") if pair.strip()]
