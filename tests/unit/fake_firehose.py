"""A Firehose with the limits and the failures of AWS, which emulators do not have."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError, ReadTimeoutError

MAX_RECORDS = 500
MAX_RECORD_BYTES = 1000 * 1024
MAX_CALL_BYTES = 4_000_000

Answer = Callable[["FakeFirehose", Sequence[bytes]], dict[str, Any]]
"""What becomes of one call: its answer, or an exception."""


@dataclass
class FakeFirehose:
    """Satisfies the sink's `Client`. Calls are answered by `script` one after the other, then by `otherwise`."""

    script: list[Answer] = field(default_factory=list)
    otherwise: Answer | None = None
    status: str = "ACTIVE"
    looks: int = 0
    """How many times its status was asked for."""
    taken: list[bytes] = field(default_factory=list)
    """Records that are in the stream, in order of arrival."""
    put: list[list[bytes]] = field(default_factory=list)
    """Every call's records."""
    under_way: int = 0
    most_under_way: int = 0
    closed: bool = False

    async def get(self) -> "FakeFirehose":
        return self

    async def close(self) -> None:
        self.closed = True

    async def describe_delivery_stream(self, *, DeliveryStreamName: str) -> dict[str, Any]:  # noqa: N803
        self.looks += 1
        return {"DeliveryStreamDescription": {"DeliveryStreamStatus": self.status}}

    async def put_record_batch(self, *, DeliveryStreamName: str, Records: list[dict[str, bytes]]) -> dict[str, Any]:  # noqa: N803
        records = [record["Data"] for record in Records]
        _within_limits(records)
        self.put.append(records)
        answer = self.script.pop(0) if self.script else self.otherwise or take_all
        self.under_way += 1
        self.most_under_way = max(self.under_way, self.most_under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        return answer(self, records)


def _within_limits(records: Sequence[bytes]) -> None:
    assert 1 <= len(records) <= MAX_RECORDS
    assert all(0 < len(record) <= MAX_RECORD_BYTES for record in records)
    assert sum(-(-len(record) // 3) * 4 for record in records) < MAX_CALL_BYTES


def take_some(takes: Callable[[int], bool]) -> Answer:
    """A 200 that took the records at those places; the others failed."""

    def answer(stream: FakeFirehose, records: Sequence[bytes]) -> dict[str, Any]:
        results = []
        for place, record in enumerate(records):
            if takes(place):
                stream.taken.append(record)
                results.append({"RecordId": str(len(stream.taken))})
            else:
                results.append({"ErrorCode": "ServiceUnavailableException", "ErrorMessage": "Slow down."})
        return {"FailedPutCount": sum("ErrorCode" in result for result in results), "RequestResponses": results}

    return answer


take_all = take_some(lambda _place: True)
take_none = take_some(lambda _place: False)


def fail(error: Exception) -> Answer:
    """No record is taken, and the call raises."""

    def answer(stream: FakeFirehose, records: Sequence[bytes]) -> dict[str, Any]:
        raise error

    return answer


def refuse(code: str) -> Answer:
    """An error for the whole call."""
    return fail(ClientError({"Error": {"Code": code, "Message": "secret words"}}, "PutRecordBatch"))


time_out = fail(ReadTimeoutError(endpoint_url="http://127.0.0.1"))


def cut_after_taking(stream: FakeFirehose, records: Sequence[bytes]) -> dict[str, Any]:
    """Everything was taken, and the connection was cut before the answer."""
    take_all(stream, records)
    raise ConnectionResetError("reset by peer")
