"""A reader's copy of the recently deleted pings, so that a read asks its store only for what is new."""

from collections.abc import Iterable
from itertools import islice

from pingfeed.core.signals import DELETED_TTL_MS, MAX_DELETED


class DeletedPings:
    """The newest `MAX_DELETED` deletions, each for `DELETED_TTL_MS`."""

    def __init__(self) -> None:
        self.times: dict[str, int] = {}
        """From ping id to the time of its deletion, in order of arrival."""
        self._live: frozenset[str] = frozenset()
        self._valid = range(0)  # The times for which `_live` is valid.

    def add(self, deletions: Iterable[tuple[str, int]]) -> None:
        """Take in (ping, when it was deleted in epoch ms), oldest arrival first; a known one moves to the end."""
        for ping_id, at_ms in deletions:
            self.times.pop(ping_id, None)
            self.times[ping_id] = at_ms
        for ping_id in list(islice(self.times, max(0, len(self.times) - MAX_DELETED))):
            del self.times[ping_id]
        self._valid = range(0)

    def at(self, now_ms: int) -> frozenset[str]:
        """The pings that count as deleted at `now_ms`; costs nothing until one arrives or expires."""
        if now_ms not in self._valid:
            live = {ping_id: at_ms for ping_id, at_ms in self.times.items() if at_ms > now_ms - DELETED_TTL_MS}
            self._live = frozenset(live)
            self._valid = range(now_ms, min(live.values(), default=now_ms) + DELETED_TTL_MS)
        return self._live
