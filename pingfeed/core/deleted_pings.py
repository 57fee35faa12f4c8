"""A reader's copy of which pings were deleted lately, so that a read asks its store for the news only."""

from collections.abc import Iterable

from pingfeed.core.signals import DELETED_TTL_MS, MAX_DELETED


class DeletedPings:
    """The newest `MAX_DELETED` deletions, each for `DELETED_TTL_MS`."""

    def __init__(self) -> None:
        self._at_ms: dict[str, int] = {}  # In order of arrival.
        self._live: frozenset[str] = frozenset()
        self._valid = range(0)  # The instants for which `_live` is right.

    def add(self, deletions: Iterable[tuple[str, int]]) -> None:
        """Take in (ping, when it was deleted in epoch ms), oldest arrival first; a known one moves to the end."""
        for ping_id, at_ms in deletions:
            self._at_ms.pop(ping_id, None)
            self._at_ms[ping_id] = at_ms
            self._valid = range(0)

    def at(self, now_ms: int) -> frozenset[str]:
        """The pings that count as deleted at `now_ms`; costs nothing while nothing comes and nothing expires."""
        if now_ms not in self._valid:
            self._gather(now_ms)
        return self._live

    def _gather(self, now_ms: int) -> None:
        for ping_id in list(self._at_ms)[:-MAX_DELETED]:
            del self._at_ms[ping_id]
        live = {ping_id: at_ms for ping_id, at_ms in self._at_ms.items() if at_ms > now_ms - DELETED_TTL_MS}
        self._live = frozenset(live)
        self._valid = range(now_ms, min(live.values(), default=now_ms) + DELETED_TTL_MS)
