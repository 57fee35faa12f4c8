"""Events to Amazon Data Firehose, which writes them to the lake as Parquet, typed by the Glue table.

A record is newline-delimited JSON (`pingfeed/adapters/_firehose.py`), every row checked against the table's types first
(`pingfeed/core/glue_rows.py`). A batch is several calls, a few of them in flight; after a partial failure only the
failed records are sent again, in order. A write gives up when nothing of it was accepted for a while. The same batch
is then sent as a whole, and so is a call without a response: duplicates are normal, and `event_id` removes them.

A row that does not match the table's types neither blocks its batch nor affects other rows: it gets its own record.
What Firehose cannot convert lands under the lake's error prefix, from where the nightly job moves it to `rejected/`
(`batch/lake/raw_files.py`). A row that is too large for a record is sent, and lands there, in pieces.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

from pingfeed.adapters._firehose import MAX_RECORD_BYTES, billed_bytes, calls, pack, pieces
from pingfeed.aws import AwsClient, translated
from pingfeed.core.errors import FormatError, Unavailable
from pingfeed.core.glue_rows import converted
from pingfeed.core.retry import Backoff
from pingfeed.core.words import counted
from pingfeed.ports import Batch, SinkCounters
from pingfeed.settings import stream_of

IN_FLIGHT: Final = 4
"""Calls of one batch under way at once."""
PATIENCE_S: Final = 30.0
"""How long a write retries while nothing of it is accepted."""
READ_S: Final = 60.0
"""A call of 4 MB may take long; one that is given up too early is sent twice."""
CHECKED_S: Final = 30.0
"""How long a successful check is valid: every process is probed every few seconds, and AWS limits an account to a few
such requests a second."""
_log = logging.getLogger(__name__)


class FirehoseEventSink:
    """`firehose://stream`. Region, credentials and endpoint come from the environment, as everywhere with AWS."""

    def __init__(
        self,
        url: str,
        *,
        client: Any = None,  # An `AwsClient`.
        backoff: Backoff | None = None,
        patience_s: float = PATIENCE_S,
        read_s: float = READ_S,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._stream = stream_of(url)
        self._what = f"the stream {self._stream}"
        self._client = client or AwsClient("firehose", read_s=read_s, connections=IN_FLIGHT)
        self._backoff = backoff or Backoff(first_s=0.2, longest_s=5)
        self._patience_s, self._clock, self._pause = patience_s, clock, pause
        self._taken_at = 0.0
        self._active_at = -math.inf
        self._counters = SinkCounters()

    @property
    def counters(self) -> SinkCounters:
        """`billed_bytes` does not include calls that were accepted without a response."""
        return self._counters

    async def write(self, batch: Batch) -> None:
        """Raises Unavailable, SettingsError."""
        good, odd = await asyncio.to_thread(_sorted_out, batch)
        self._taken_at = self._clock()
        await self._put_all(calls([*pack(good), *(piece for line in odd for piece in pieces(line))]))
        self._counters.quarantined += len(odd)

    async def check(self) -> None:
        """A success is valid for `CHECKED_S`, a failure is not remembered."""
        asked_at = self._clock()
        if asked_at - self._active_at < CHECKED_S:
            return
        with translated(self._what):
            found = await (await self._client.get()).describe_delivery_stream(DeliveryStreamName=self._stream)
        status = found["DeliveryStreamDescription"]["DeliveryStreamStatus"]
        if status != "ACTIVE":
            raise Unavailable(f"{self._what} is {status}")
        self._active_at = asked_at

    async def close(self) -> None:
        await self._client.close()

    async def _put_all(self, waiting: Iterator[list[bytes]]) -> None:
        """Send every call, `IN_FLIGHT` at once; the first error cancels the others."""

        async def put_what_waits() -> None:
            for call in waiting:
                await self._put(call)

        tasks = [asyncio.create_task(put_what_waits()) for _ in range(IN_FLIGHT)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _put(self, records: Sequence[bytes]) -> None:
        """Send one call's records until all are accepted, as long as anything of the batch is."""
        failures = 0
        while records:
            left, reason = await self._try(records)
            if len(left) < len(records):
                self._taken_at, failures = self._clock(), 0
            if left:
                failures += 1
                if self._clock() - self._taken_at >= self._patience_s:
                    refused = counted(len(left), "record")
                    raise Unavailable(f"{self._what} does not take {refused}: {reason}") from reason
                self._counters.retried += len(left)
                await self._pause(self._backoff.pause_s(failures))
            records = left

    async def _try(self, records: Sequence[bytes]) -> tuple[Sequence[bytes], Unavailable | None]:
        """One call: the records that failed, in order, and why."""
        try:
            results = await self._call(records)
        except Unavailable as error:
            return records, error
        taken = [record for record, result in zip(records, results, strict=True) if "ErrorCode" not in result]
        failed = [record for record, result in zip(records, results, strict=True) if "ErrorCode" in result]
        self._counters.records += len(taken)
        self._counters.bytes += sum(map(len, taken))
        self._counters.billed_bytes += billed_bytes(taken)
        reasons = sorted({str(result["ErrorCode"]) for result in results if "ErrorCode" in result})
        return failed, Unavailable(", ".join(reasons)) if failed else None

    async def _call(self, records: Sequence[bytes]) -> list[dict[str, Any]]:
        """Firehose's result for each record, in order."""
        with translated(self._what):
            client = await self._client.get()
            answer = await client.put_record_batch(
                DeliveryStreamName=self._stream, Records=[{"Data": record} for record in records]
            )
        results: list[dict[str, Any]] = answer["RequestResponses"]
        return results


def _sorted_out(batch: Batch) -> tuple[list[bytes], list[bytes]]:
    """The batch's rows as lines: those that convert and fit into a record, and the others, each to be sent alone."""
    good: list[bytes] = []
    odd: list[bytes] = []
    for line in (line for lines in batch.lines for line in lines.splitlines()):
        try:
            checked = converted(line)
            (good if len(checked) <= MAX_RECORD_BYTES else odd).append(checked)
        except FormatError as error:
            odd.append(line)
            _log.error("a row does not match the table's types and is sent separately", extra={"reason": error.message})
    return good, odd
