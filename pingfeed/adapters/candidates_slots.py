"""Two sets of packets in one CandidateStore: `a` under the user's id, `b` under the id and `/b`, which no id contains.

A packet of another feature digest loses its user part. So a release with other features writes and reads the set that
the running one does not, and either can serve until the traffic has moved (`deploy/release.py`).
"""

from collections.abc import Mapping
from typing import Final

from pingfeed.ports import CandidateStore, PacketCache

_SUFFIX: Final = {"a": "", "b": "/b"}


class CandidateSlots:
    """The packets of one slot; `delete` removes the user's packet from both."""

    def __init__(self, store: CandidateStore, slot: str) -> None:
        self._store, self._suffix = store, _SUFFIX[slot]

    async def get(self, user_id: str, now_ms: int) -> bytes | None:
        return await self._store.get(user_id + self._suffix, now_ms)

    async def put_many(self, packets: Mapping[str, bytes], expires_ms: int) -> None:
        await self._store.put_many({user + self._suffix: packet for user, packet in packets.items()}, expires_ms)

    async def delete(self, user_id: str) -> None:
        for suffix in _SUFFIX.values():
            await self._store.delete(user_id + suffix)

    async def check(self) -> None:
        await self._store.check()

    async def close(self) -> None:
        await self._store.close()


class CachedSlots(CandidateSlots):
    """The same in front of a cache, whose reads that bypass it stay visible."""

    def __init__(self, store: PacketCache, slot: str) -> None:
        super().__init__(store, slot)
        self._cache = store

    @property
    def passed_by(self) -> int:
        return self._cache.passed_by
