"""What the caller says about a CSV: which column or constant each field takes, and what the log's words mean.

user_id=customer,ping_id=item,event_type=action,timestamp=at       columns
event_type==like                                                   a constant
attributes.price=price,facets.tags=tags                            a ping's named numbers and lists
rating=stars                                                       with --rating-like
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pingfeed.core.errors import InvalidInput
from pingfeed.core.events import CLIENT_TYPES

SKIP: Final = "skip"
"""Used in place of an event type: rows with that word are left out and are no mistake."""
_NAMED: Final = re.compile(r"(attributes|facets)\.[a-z][a-z0-9_]{0,31}")
FIELDS: Final = sorted(
    {"event_type", "rating"}.union(*(struct.__struct_fields__ for struct in CLIENT_TYPES.values()))
    - {"sent_at", "attributes", "facets"}
)


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

    def with_ratings(self) -> "FieldMap":
        """For --rating-like: a column mapped to watch_time_ratio holds the ratings if no other does. InvalidInput."""
        columns = dict(self.columns)
        if "rating" not in columns and "watch_time_ratio" in columns:
            columns["rating"] = columns.pop("watch_time_ratio")
        if "rating" not in columns:
            raise InvalidInput("--rating-like needs the column of the ratings: --map rating=COLUMN")
        return replace(self, columns=columns)


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
    made = FieldMap(columns, constants)
    if ratings:
        made = made.with_ratings()
    elif "rating" in made.fields:
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
