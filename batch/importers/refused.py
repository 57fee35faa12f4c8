"""Lines that could not be imported: each with its number and the reason, as far as the bounds go."""

from collections import Counter
from typing import Final

import msgspec

from pingfeed.core.clock import day_of
from pingfeed.core.errors import InvalidInput

MAX_KEPT: Final = 10_000
"""Refused lines of one import that are explained and kept; the others are only counted."""
MAX_LINE_KEPT: Final = 1_000
"""Characters of a refused line that are kept."""


class Refused(msgspec.Struct, frozen=True):
    """Why one line (1 is the file's first) was not imported; `body` is the line."""

    line: int
    code: str
    field: str | None
    message: str
    body: str


class _Kept(msgspec.Struct, frozen=True):
    """A line below `rejected/`: as the ingest service writes them, with where it came from."""

    received_ms: int
    code: str
    field: str | None
    message: str
    body: str
    source: str
    line: int


def refused(line: int, error: InvalidInput, raw: bytes) -> Refused:
    """A refusal of a line's bytes; what is not UTF-8 is escaped."""
    body = raw[:MAX_LINE_KEPT].decode("utf-8", "backslashreplace")
    return Refused(line, error.code, error.field, error.message, body)


class RefusedLines:
    """All refusals of one import: every one counted, the first `MAX_KEPT` kept."""

    def __init__(self) -> None:
        self.count = 0
        self.kept: list[Refused] = []
        self.reasons: Counter[str] = Counter()
        """How often each sentence was the reason, among those that are kept."""

    @property
    def room(self) -> int:
        """How many more would be kept."""
        return max(0, MAX_KEPT - len(self.kept))

    def add(self, found: list[Refused], count: int) -> None:
        """Refusals of a block: `count` in all, `found` those that were explained."""
        self.count += count
        found = found[: self.room]
        self.kept += found
        self.reasons.update(one.message for one in found)

    def as_file(self, source: str, at_ms: int) -> bytes:
        """What is kept, as the JSON lines of a file of `rejected_path`."""
        lines = (_Kept(at_ms, r.code, r.field, r.message, r.body, source, r.line) for r in self.kept)
        return msgspec.json.Encoder().encode_lines(lines)


def rejected_path(name: str, at_ms: int) -> str:
    """Where an import's refused lines are kept, relative to the lake."""
    return f"rejected/day={day_of(at_ms)}/import-{name}.jsonl"
