"""Clients that post events as fast as they get responses, and remember exactly which were acknowledged.

An event's id holds its client and its number, so that millions of them are remembered as ranges. A client that got no
response, or a 503, sends the same events again, under the same ids.
"""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

USERS: Final = 300
PINGS: Final = 1000
SIZES: Final = (1, 1, 1, 20, 20, 500)
"""Events a request: one of these."""
_KINDS: Final = (b"impression", b"like", b"share", b"comment")


@dataclass(frozen=True)
class Request:
    """Consecutive events of one client, and their body."""

    client: int
    first: int
    count: int
    body: bytes


@dataclass
class Answers:
    """The responses to all clients."""

    statuses: Counter[int] = field(default_factory=Counter)
    lost: int = 0
    """Requests without a response."""
    lost_events: int = 0
    """Events in them; they may have been accepted."""
    without_retry_after: int = 0
    acknowledged: list[tuple[int, int, int]] = field(default_factory=list)
    """Client, first event, events."""

    @property
    def events(self) -> int:
        """How many were acknowledged."""
        return sum(count for _, _, count in self.acknowledged)

    def ids(self) -> Iterator[str]:
        """The ids of every acknowledged event."""
        for client, first, count in self.acknowledged:
            yield from (event_id(client, number) for number in range(first, first + count))


def event_id(client: int, number: int) -> str:
    """A UUID that names its client."""
    return f"{client:08x}-0000-7000-8000-{number:012x}"


def after(seconds: float) -> Callable[[], bool]:
    """Whether so much time has passed since this call."""
    ends_at = time.monotonic() + seconds
    return lambda: time.monotonic() >= ends_at


class Client:
    """One connection at a time to a service; a request without a response is sent again over the next."""

    def __init__(
        self, number: int, answers: Answers, sizes: Iterable[int] = SIZES, most_events: int | None = None
    ) -> None:
        self._number, self._answers, self._sizes = number, answers, tuple(sizes)
        self._left = most_events
        self._next = 0
        self._pending: Request | None = None
        self._chance = random.Random(number)

    async def post_until(self, url: str, is_over: Callable[[], bool], pause_s: float = 0.02) -> None:
        """Post until `is_over`, until all are sent, or until the connection is lost."""
        split = urlsplit(url)
        try:
            reader, writer = await asyncio.open_connection(split.hostname, split.port)
        except OSError:
            return
        try:
            while not is_over():
                request = self._pending = self._pending or self._made()
                if request is None:
                    return
                if not await self._posted(request, reader, writer):
                    await asyncio.sleep(pause_s)
        except (OSError, EOFError):
            self._answers.lost += 1
            self._answers.lost_events += self._pending.count if self._pending else 0
        finally:
            writer.close()

    async def _posted(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Send it; whether it was acknowledged."""
        head = f"POST /track-events HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(request.body)}\r\n\r\n"
        writer.write(head.encode() + request.body)
        status, headers, body = await _answer(reader)
        self._answers.statuses[status] += 1
        if status != 202:
            self._answers.without_retry_after += b"retry-after:" not in headers
            return False
        said = json.loads(body)
        assert said["accepted"] + said["duplicates"] == request.count, said
        self._answers.acknowledged.append((request.client, request.first, request.count))
        self._pending = None
        return True

    def _made(self) -> Request | None:
        count = self._chance.choice(self._sizes)
        if self._left is not None:
            count = min(count, self._left)
            self._left -= count
        if not count:
            return None
        first, self._next = self._next, self._next + count
        body = b'{"events":[' + b",".join(self._event(n) for n in range(first, first + count)) + b"]}"
        return Request(self._number, first, count, body)

    def _event(self, number: int) -> bytes:
        return b'{"event_type":"%b","user_id":"u%d","ping_id":"p%d","country":"DE","event_id":"%b"}' % (
            _KINDS[number % len(_KINDS)],
            (number * 7 + self._number) % USERS,
            number % PINGS,
            event_id(self._number, number).encode(),
        )


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    headers = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(headers.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
    return int(headers[9:12]), headers, await reader.readexactly(length)
