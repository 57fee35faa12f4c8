"""Rows packed into Firehose's records, and records into its calls. AWS's limits are enforced here and nowhere else.

Firehose bills each record rounded up to 5 KB (5,120 bytes), so a record is filled to just under a multiple of that, and
rejects what is over a limit: 1,000 KiB a record, 500 records and 4 MB a call. AWS does not document whether the 4 MB
are counted before or after base64, in millions or in MiB, so a call stays under 4,000,000 bytes as sent.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

BILLED_UNIT: Final = 5 * 1024
MAX_RECORD_BYTES: Final = 1000 * 1024
MAX_RECORDS: Final = 500
MAX_CALL_BYTES: Final = 4_000_000
RECORD_BYTES: Final = 50 * BILLED_UNIT
"""How far a record is filled. At most one row of room is wasted, under 1 % with the usual rows; a larger record would
waste less, but is more to send again when something in it fails."""
CALL_BYTES: Final = 1_000_000
"""How far a call is filled, as sent. A call without a response is sent twice: a smaller one duplicates less."""
_ENVELOPE: Final = 1024
_RECORD_ENVELOPE: Final = len('{"Data": ""}, ')


def pack(lines: Iterable[bytes], record_bytes: int = RECORD_BYTES) -> Iterator[bytes]:
    """Lines (each with its line feed, none over `MAX_RECORD_BYTES`) as records, in order.

    No record is over `record_bytes`, but one that is a single line. Two neighbours together always are.
    """
    record: list[bytes] = []
    size = 0
    for line in lines:
        if record and size + len(line) > record_bytes:
            yield b"".join(record)
            record, size = [], 0
        record.append(line)
        size += len(line)
    if record:
        yield b"".join(record)


def pieces(line: bytes) -> list[bytes]:
    """A line that no record holds, in pieces that one does, each with a line feed; any other line as it is."""
    body, room = line.rstrip(b"\n"), MAX_RECORD_BYTES - 1
    return [body[at : at + room] + b"\n" for at in range(0, len(body), room)]


def calls(records: Iterable[bytes], call_bytes: int = CALL_BYTES) -> Iterator[list[bytes]]:
    """Records as the contents of `PutRecordBatch` calls, in order.

    No call is over `call_bytes` (at most `MAX_CALL_BYTES`), but one that is a single record.
    """
    call: list[bytes] = []
    size = _ENVELOPE
    for record in records:
        sent = sent_bytes(record)
        if call and (len(call) == MAX_RECORDS or size + sent > call_bytes):
            yield call
            call, size = [], _ENVELOPE
        call.append(record)
        size += sent
    if call:
        yield call


def sent_bytes(record: bytes) -> int:
    """A record's share of the request's body: base64 and what JSON puts around it."""
    return -(-len(record) // 3) * 4 + _RECORD_ENVELOPE


def billed_bytes(records: Sequence[bytes]) -> int:
    """What AWS bills for these records: each one rounded up to 5 KB."""
    return sum(-(-len(record) // BILLED_UNIT) for record in records) * BILLED_UNIT
