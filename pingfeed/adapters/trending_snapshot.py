"""No counters at all: what is hot is what the last tick found hot, in the snapshot's own lists.

For an installation without a store that counts: on Lambda without a cache, for example. What a ping gains between two
ticks is not seen, and the feature `trending_now` is unknown.
"""

from collections.abc import Sequence

from pingfeed.core.errors import InvalidInput
from pingfeed.core.trending import Engagement


class SnapshotTrending:
    """`snapshot://`, with nothing after it."""

    def __init__(self, url: str) -> None:
        if url.rstrip("/") != "snapshot:":
            raise InvalidInput("has something after snapshot://, which takes nothing")

    async def add(self, engagements: Sequence[Engagement]) -> None:
        """Forget them: the batch side counts from the events themselves."""

    async def top(self, country: str | None, limit: int, now_ms: int) -> None:
        """None: no counters are kept."""

    async def check(self) -> None:
        """There is nothing that could fail."""

    async def close(self) -> None:
        """Nothing is held."""
