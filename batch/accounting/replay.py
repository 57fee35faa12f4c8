"""`pingfeed rejected replay`: repaired events go through the door again, in requests of up to 500.

Each is checked here first, by the door's own rules. What they would refuse again is not sent, for the door would keep
it once more: the log of refused events does not grow by being replayed.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

from batch.accounting.door import Receipt, Rejection
from batch.accounting.repaired import Repaired
from pingfeed.core.errors import PingfeedError, TooLarge
from pingfeed.core.events import MAX_BODY_BYTES, MAX_EVENTS, to_rows
from pingfeed.core.ids import uuid7

_ENVELOPE: Final = 64
EXAMPLES: Final = 100


class Sends(Protocol):
    """What `door.EventReceiver` is."""

    def send(self, events: list[Any], /) -> Receipt:
        """Hand events in. Raises PingfeedError."""


@dataclass
class Outcome:
    """What became of the events."""

    accepted: int = 0
    duplicates: int = 0
    refused: int = 0
    reasons: list[tuple[Repaired, Rejection]] = field(default_factory=list)
    """The first of the refused, each with its reason."""
    taken: dict[str, set[str]] = field(default_factory=dict)
    """Lines of the lake, by path, whose events are all accepted or duplicates."""
    stopped: PingfeedError | None = None
    """What ended it early: nothing more was sent after that."""


def replay(door: Sends, repaired: Iterable[Repaired], now_ms: int) -> Outcome:
    """Send events; whatever happens, the outcome says what became of each that was sent."""
    done = Outcome()
    kept: set[tuple[str, str]] = set()
    for group in _groups(repaired):
        try:
            refused = _send(door, group, now_ms, done)
        except PingfeedError as error:
            done.stopped = error
            kept |= {(one.path or "", one.line) for one in group}  # A whole request may be cut between two of these.
            break
        kept |= {(one.path or "", one.line) for one in refused}
        for one in group:
            if one.path is not None:
                done.taken.setdefault(one.path, set()).add(one.line)
    for path, line in kept:
        done.taken.get(path, set()).discard(line)
    return done


def _send(door: Sends, group: list[Repaired], now_ms: int, done: Outcome) -> list[Repaired]:
    """Send a group's good events; those that were refused, here or there."""
    bad = _bad(group, now_ms)
    good = [one for index, one in enumerate(group) if index not in bad]
    refused = [(group[index], why) for index, why in bad.items()]
    if good:
        receipt = door.send([one.event for one in good])
        done.accepted += receipt.accepted
        done.duplicates += receipt.duplicates
        refused += [(good[why.index], why) for why in receipt.rejected]
    done.refused += len(refused)
    done.reasons += refused[: EXAMPLES - len(done.reasons)]
    return [one for one, _ in refused]


def _bad(group: list[Repaired], now_ms: int) -> dict[int, Rejection]:
    """Those that the door would refuse, by their place in the group."""
    if len(group) == 1 and _bytes(group[0]) > MAX_BODY_BYTES - _ENVELOPE:
        return {0: Rejection(0, TooLarge.code, None, f"the event is over {MAX_BODY_BYTES:,} bytes")}
    _, refusals = to_rows([one.event for one in group], now_ms, uuid7)
    return {one.index: Rejection(one.index, one.code, one.field, one.message) for one in refusals}


def _bytes(one: Repaired) -> int:
    return len(msgspec.json.encode(one.event))


def _groups(repaired: Iterable[Repaired]) -> Iterator[list[Repaired]]:
    """As many events as one request takes."""
    group: list[Repaired] = []
    size = _ENVELOPE
    for one in repaired:
        more = _bytes(one) + 1
        if group and (len(group) == MAX_EVENTS or size + more > MAX_BODY_BYTES):
            yield group
            group, size = [], _ENVELOPE
        group.append(one)
        size += more
    if group:
        yield group
