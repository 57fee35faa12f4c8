"""What the importer asks of a format of logs, and what it gets of each block."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from batch.importers.refused import Refused
from batch.importers.source import OnRead, Source
from batch.importers.times import Timeline


@dataclass(frozen=True)
class Times:
    """How a log's times become ours. What happens after `end_ms` is known at `end_ms`."""

    timeline: Timeline
    end_ms: int
    now_ms: int
    tick_ms: int


@dataclass(frozen=True)
class Piece:
    """What came of some lines."""

    lines: int
    """Lines that are not blank (nor a header)."""
    events: Any
    """A `pyarrow.Table` of those columns of the event schema that can have values."""
    mentions: Any
    """A `pyarrow.Table` of the pings that they mention (`introductions.Introductions`)."""
    refused: list[Refused]
    """Refused lines, as far as there was room to explain them."""
    refused_count: int
    left_out: int = 0
    """Lines that are no mistake and have no counterpart here."""
    cut: int = 0
    """Labels that lost characters or had no room."""


class Format(Protocol):
    """One way of writing a log, with the caller's options."""

    @property
    def name(self) -> str:
        """What the format is called."""

    @property
    def options(self) -> Mapping[str, str]:
        """All that decides what a line becomes: with the same content, the same options give the same events."""

    @property
    def needs_span(self) -> bool:
        """Whether the first time must be known even where all times stay as they are."""

    @property
    def separator(self) -> str:
        """What divides the topics of a mention."""

    def span(self, source: Source, now_ms: int, on_read: OnRead) -> tuple[int, int]:
        """The log's times of its first and last event; InvalidInput if it has none."""

    def pieces(self, source: Source, times: Times, room: int, on_read: OnRead) -> Iterator[Piece]:
        """The log's events in blocks, in the file's order; `room` bounds the refusals that are explained."""
