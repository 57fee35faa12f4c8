"""What a spool knows of the files and calls that it works with (`spool.py`)."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from pingfeed.core.clock import DAY_MS
from pingfeed.spool.group_commit import LogFile
from pingfeed.spool.recovery import FoundSegment


@dataclass(eq=False, slots=True)
class Segment:
    """What is known of one segment: the spool's own, and to others a token for `release` and `postpone`."""

    first_id: int
    day: int
    file: LogFile
    last_id: int = 0
    events: int = 0
    bytes: int = 0
    """Of its records, heads included. Both count what is durable and what is being written."""
    writing: int = 0
    """Appends that are not durable yet."""
    applying: int = 0
    """Appends whose signals are being applied now."""
    postponed: int = 0
    """How many times signals of it were put off."""
    caught_up_to: int = 0
    """How many of those times have been made good."""
    delivered: bool = False


@dataclass(frozen=True)
class SpooledBatch:
    """A segment's records; satisfies `ports.Batch`."""

    name: str
    lines: Sequence[bytes]
    received_ms: int
    events: int
    segment: Segment


@dataclass(eq=False, slots=True)
class Append:
    """One call of `append` on its way to the disk."""

    segment: Segment
    id: int
    size: int
    count: int
    held: bool
    waiter: "asyncio.Future[None]"


def as_segment(found: FoundSegment, settled_to: int) -> Segment:
    """A segment that an earlier process left."""
    file = LogFile(found.path, b"", size=found.size, broken=True)
    one = Segment(found.first_id, found.received_ms // DAY_MS, file, found.last_id, found.events, found.bytes)
    one.delivered = found.first_id <= settled_to
    return one
