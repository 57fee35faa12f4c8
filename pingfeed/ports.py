"""The ports: the interfaces to everything outside the process, each with its contract.

A URL in the settings picks the adapter (`pingfeed/adapters/<port>_<backend>.py`). Adapters raise only errors of
`pingfeed.core.errors`, chained to the vendor's: `Unavailable` where a retry can help. Every adapter of a port
passes the same suite in `tests/conformance/`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from pingfeed.core.signals import Act, Signals
from pingfeed.core.trending import Engagement


@dataclass
class SinkCounters:
    """A sink's totals since it was opened, for metrics."""

    bytes: int = 0
    """Bytes of rows written, as the backend counts them."""
    billed_bytes: int = 0
    """Bytes that the backend bills for them; 0 where nothing is billed."""
    records: int = 0
    """Units in which they were stored: files, records."""
    retried: int = 0
    """Units that were sent again within a write."""
    quarantined: int = 0
    """Rows that do not match the backend's schema and were written separately."""


class EventSink(Protocol):
    """Where accepted events go. Called by one deliverer a process, in order."""

    @property
    def counters(self) -> SinkCounters:
        """The current counters; always the same object."""

    async def write(self, batch: "Batch") -> None:
        """Write the batch; it is durable on return.

        All or nothing for the caller: on an error it sends the same batch again, so rows may arrive twice but are never
        lost; readers deduplicate by `event_id`. Rows land under the UTC day of their arrival, at the service or at the
        sink, never of `timestamp_ms`; readers may see them only some time after this returns. Raises Unavailable.
        """

    async def check(self) -> None:
        """Raise Unavailable with a sentence if a write would fail now."""

    async def close(self) -> None:
        """Release resources. Nothing is buffered, so nothing is lost."""


class Batch(Protocol):
    """What a spool hands to a sink."""

    @property
    def name(self) -> str:
        """Unique to the first and last record in it: the same records get the same name after a restart."""

    @property
    def lines(self) -> Sequence[bytes]:
        """Newline-delimited JSON rows (`events.encode_rows`), oldest first."""

    @property
    def received_ms(self) -> int:
        """When the oldest row in it was accepted; its UTC day is the partition where the sink itself chooses one."""


class Lake(Protocol):
    """Columnar data of the batch side. Synchronous. Paths are relative, with forward slashes."""

    def list(self, prefix: str, before_ms: int | None = None) -> list[str]:
        """Every file below the folder `prefix`, sorted, none half written; [] if there is no such folder.

        With `before_ms` only those written before that time, by the store's clock.
        """

    def read(self, path: str) -> bytes:
        """A file's bytes; NotFound if there is none."""

    def write(self, path: str, data: bytes) -> None:
        """Create or replace a file; a reader sees the old bytes or the new, never a part, and they survive a crash."""

    def create(self, path: str, data: bytes) -> bool:
        """Like `write`, but only where there is no such file, else False: of several callers one succeeds.

        A call that was retried may return False for its own file.
        """

    def delete(self, path: str) -> None:
        """Remove a file; absent is fine."""

    def dataset(self, paths: Sequence[str], schema: Any) -> Any:
        """The Parquet files, in order, as one `pyarrow.dataset.Dataset` of `schema`; NotFound if one is absent.

        Columns that a file lacks are null; columns that `schema` lacks are left out.
        """


class Artifacts(Protocol):
    """Models and snapshots, and the pointers that say which is live. Keys are relative, with forward slashes."""

    async def get(self, key: str) -> bytes:
        """An artifact's bytes; NotFound if there is none."""

    async def put(self, key: str, data: bytes) -> None:
        """Create or replace an artifact, atomically and durably."""

    async def swap(self, key: str, data: bytes, seen: bytes | None) -> bool:
        """Like `put`, but only while the artifact is still `seen` (None: absent), else False. Moves pointers."""

    async def delete(self, key: str) -> None:
        """Remove an artifact; absent is fine."""

    async def check(self) -> None:
        """Raise Unavailable with a sentence if the store does not respond."""

    async def close(self) -> None:
        """Release resources."""


class Lease(Protocol):
    """Who may write to the lake: one holder at a time, each with a fencing number that only grows.

    Synchronous, for any thread, as only the batch side takes it. A holder that is paused until its time is over does
    not know that it lost the lease, so what it writes must be fenced as well (`batch/lake/versions.py`).
    """

    def acquire(self, seconds: float, floor: int = 0) -> int:
        """Take the lease for that long; its number, above `floor` and all earlier ones. Busy while another holds it."""

    def renew(self, fence: int, seconds: float) -> None:
        """Hold it for that long from now; Busy if another has taken it. One that expired untaken is renewed."""

    def release(self, fence: int) -> None:
        """Let it go; one that was lost is left to its new holder."""

    def holder(self) -> str:
        """Who holds it and until when, "" if it is free. Raises Unavailable."""


class CandidateStore(Protocol):
    """One packet a user."""

    async def get(self, user_id: str, now_ms: int) -> bytes | None:
        """The user's packet, None if there is none or it has expired at `now_ms`. One round trip."""

    async def put_many(self, packets: Mapping[str, bytes], expires_ms: int) -> None:
        """Create or replace packets; each one is replaced whole. Any number; the adapter paces itself."""

    async def delete(self, user_id: str) -> None:
        """Remove the user's packet; absent is fine."""

    async def check(self) -> None:
        """Raise Unavailable with a sentence if the store does not respond."""

    async def close(self) -> None:
        """Release resources."""


@runtime_checkable
class PacketCache(CandidateStore, Protocol):
    """A cache in front of another store; reads bypass it when it is slow or down."""

    @property
    def passed_by(self) -> int:
        """Reads that bypassed the cache since it was opened."""


class UserSignals(Protocol):
    """One user's relations and profile, which last, and the session, which expires; bounded, idempotent.

    The store is derived from the lake. One that began anew is incomplete until it is rebuilt and marked.
    """

    async def apply(self, acts: Sequence[Act]) -> None:
        """Apply acts in order; on return the next `read` by any process sees them. Raises Unavailable."""

    async def read(self, user_id: str, now_ms: int) -> Signals:
        """The user's state (empty if unknown) and the recently deleted pings. One round trip."""

    async def forget(self, user_id: str) -> None:
        """Remove everything held about the user; absent is fine."""

    async def is_complete(self) -> bool:
        """Whether the store is marked as holding every relation of the lake. Raises Unavailable."""

    async def mark_complete(self) -> None:
        """Mark it: the lake was empty, or every relation in it has been applied. Raises Unavailable."""

    async def check(self) -> None:
        """Raise Unavailable with a sentence if the store does not respond, Rebuilding while it is incomplete."""

    async def close(self) -> None:
        """Release resources."""


class Trending(Protocol):
    """What is hot, per country and overall: a forward-decay counter for each ping.

    A store may keep no counters: then `add` does nothing and `top` always returns None.
    """

    async def add(self, engagements: Sequence[Engagement]) -> None:
        """Count them within a second; one counts per (user, ping, event type) a day, however often it is added.

        A `top` of the same object includes them at once, and `close` flushes; a kill may lose the last second. Raises
        Unavailable if these or earlier ones could not be counted; those are lost, and an adapter's buffer is bounded.
        """

    async def top(self, country: str | None, limit: int, now_ms: int) -> list[tuple[str, float]] | None:
        """The hottest pings of a country (None: of all) with their weights at `now_ms`, hottest first.

        None means that no counters are kept: the snapshot's trending list is used instead. With counters but no
        engagements the result is [].
        """

    async def check(self) -> None:
        """Raise Unavailable with a sentence if the store does not respond."""

    async def close(self) -> None:
        """Release resources."""
