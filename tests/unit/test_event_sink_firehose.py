"""The Firehose sink against all that Firehose does: limits, partial failures, throttling, silence."""

import asyncio
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pytest
from botocore.exceptions import NoCredentialsError

from pingfeed.adapters._firehose import BILLED_UNIT, MAX_RECORD_BYTES, RECORD_BYTES
from pingfeed.adapters.event_sink_firehose import CHECKED_S, IN_FLIGHT, FirehoseEventSink
from pingfeed.core.errors import SettingsError, Unavailable
from pingfeed.core.events import Row, encode_rows
from pingfeed.core.retry import Backoff
from pingfeed.settings import stream_of
from tests.conformance.samples import NOON_MS, SampleBatch, like
from tests.servers import AWS_ENVIRONMENT, free_port
from tests.unit.fake_firehose import (
    Answer,
    FakeFirehose,
    cut_after_taking,
    fail,
    refuse,
    take_none,
    take_some,
    time_out,
)

REFUSED = [refuse(code) for code in ("ServiceUnavailableException", "ThrottlingException", "InternalFailure")]


@dataclass
class Time:
    """A clock that only pauses move."""

    now: float = 0.0
    pauses: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def sink_to(stream: FakeFirehose, time: Time | None = None) -> FirehoseEventSink:
    time = time or Time()
    return FirehoseEventSink(
        "firehose://events",
        client=stream,
        backoff=Backoff(first_s=0.2, longest_s=5, jitter=lambda: 0.5),
        clock=time,
        pause=time.pause,
    )


def batch_of(rows: Iterable[Row]) -> SampleBatch:
    return SampleBatch("b", [encode_rows(rows)], NOON_MS)


def big(number: int, size: int = 60_000) -> Row:
    """A like of about `size` bytes."""
    return {**like(number), "extra": "x" * size}


def ids(records: Sequence[bytes]) -> list[int]:
    """The numbers of the likes in records, in order."""
    lines = (line for record in records for line in record.splitlines())
    return [int(json.loads(line)["event_id"][-12:]) for line in lines]


async def test_a_batch_arrives_packed_and_in_order() -> None:
    stream = FakeFirehose()
    await sink_to(stream).write(batch_of(like(n) for n in range(3000)))
    assert ids(stream.taken) == list(range(3000))
    assert all(0 < RECORD_BYTES - len(record) < 300 for record in stream.taken[:-1])
    assert len(stream.put) == 1


@pytest.mark.parametrize("failure", [*REFUSED, time_out, take_none, take_some(lambda place: place % 2 == 0)])
async def test_everything_arrives_once_whatever_happens_to_a_call(failure: Answer) -> None:
    stream = FakeFirehose([failure])
    await sink_to(stream).write(batch_of(big(n) for n in range(40)))
    assert sorted(ids(stream.taken)) == list(range(40))


async def test_only_failed_records_are_sent_again_in_their_order() -> None:
    stream = FakeFirehose([take_some(lambda place: place in (0, 3)), take_some(lambda place: place != 1)])
    await sink_to(stream).write(batch_of(big(n, 130_000) for n in range(5)))
    assert [ids(call) for call in stream.put] == [[0, 1, 2, 3, 4], [1, 2, 4], [2]]


async def test_a_call_without_a_response_is_sent_again() -> None:
    """Twice, never lost: `event_id` removes the second."""
    stream = FakeFirehose([cut_after_taking])
    await sink_to(stream).write(batch_of([like(1)]))
    assert ids(stream.taken) == [1, 1]


async def test_pauses_grow_and_a_write_gives_up_after_its_patience() -> None:
    stream, time = FakeFirehose(otherwise=take_none), Time()
    with pytest.raises(Unavailable, match="ServiceUnavailableException"):
        await sink_to(stream, time).write(batch_of([like(1)]))
    assert time.pauses[:6] == pytest.approx([0.15, 0.3, 0.6, 1.2, 2.4, 3.75])
    assert 30 <= sum(time.pauses) < 35


async def test_a_stream_that_takes_a_little_at_a_time_is_not_given_up() -> None:
    """A throttled stream would never take a batch that begins anew each time."""
    stream, time = FakeFirehose(otherwise=take_some(lambda place: place == 0)), Time()
    await sink_to(stream, time).write(batch_of(big(n, 200_000) for n in range(600)))
    assert sorted(ids(stream.taken)) == list(range(600))
    assert time.now > 30


async def test_the_same_batch_arrives_whole_after_a_write_gave_up() -> None:
    stream = FakeFirehose(otherwise=time_out)
    sink, batch = sink_to(stream), batch_of(like(n) for n in range(10))
    with pytest.raises(Unavailable):
        await sink.write(batch)
    stream.otherwise = None
    await sink.write(batch)
    assert ids(stream.taken) == list(range(10))


async def test_calls_are_in_flight_together_and_never_more_than_the_bound() -> None:
    stream = FakeFirehose()
    await sink_to(stream).write(batch_of(big(n, 200_000) for n in range(150)))
    assert len(stream.put) > 2 * IN_FLIGHT
    assert stream.most_under_way == IN_FLIGHT
    assert sorted(ids(stream.taken)) == list(range(150))


async def test_an_error_of_one_call_leaves_none_under_way() -> None:
    stream = FakeFirehose(otherwise=refuse("AccessDeniedException"))
    with pytest.raises(Unavailable) as caught:
        await sink_to(stream).write(batch_of(big(n, 200_000) for n in range(150)))
    assert "AccessDeniedException" in caught.value.message
    assert "secret words" not in caught.value.message
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_row_that_does_not_convert_goes_alone_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    stream = FakeFirehose()
    sink = sink_to(stream)
    with caplog.at_level(logging.ERROR):
        await sink.write(batch_of([like(1), {**like(2), "position": "private"}, like(3)]))
    assert [ids([record]) for record in stream.taken] == [[1, 3], [2]]
    assert sink.counters.quarantined == 1
    assert "private" not in caplog.text


async def test_a_row_over_the_limit_of_a_record_is_sent_in_pieces() -> None:
    stream = FakeFirehose()
    sink = sink_to(stream)
    huge = {**like(2), "extra": "y" * (MAX_RECORD_BYTES + 10)}
    await sink.write(batch_of([like(1), huge, like(3)]))
    first, *parts = stream.taken
    assert ids([first]) == [1, 3]
    assert json.loads(b"".join(part.rstrip(b"\n") for part in parts)) == huge
    assert sink.counters.quarantined == 1


async def test_a_row_that_just_fits_into_a_record_is_sent_as_it_is() -> None:
    stream = FakeFirehose()
    empty = len(encode_rows([{**like(1), "extra": ""}]))
    await sink_to(stream).write(batch_of([{**like(1), "extra": "z" * (MAX_RECORD_BYTES - empty)}]))
    assert [len(record) for record in stream.taken] == [MAX_RECORD_BYTES]


async def test_billed_bytes_are_counted_beside_real_ones_for_what_was_taken() -> None:
    stream = FakeFirehose([take_some(lambda place: place != 1)])
    sink = sink_to(stream)
    await sink.write(batch_of(big(n, 256_100) for n in range(3)))
    real = sum(map(len, stream.taken))
    assert sink.counters.bytes == real
    assert sink.counters.billed_bytes == 3 * 51 * BILLED_UNIT
    assert sink.counters.records == 3
    assert sink.counters.retried == 1


async def test_a_successful_check_is_valid_for_a_while_and_an_inactive_stream_is_unavailable() -> None:
    """AWS limits an account to a few such requests a second."""
    stream, time = FakeFirehose(), Time()
    sink = sink_to(stream, time)
    for time.now in (0.0, 5.0, CHECKED_S - 1):
        await sink.check()
    assert stream.looks == 1
    stream.status = "DELETING"
    for time.now in (CHECKED_S, CHECKED_S + 1):
        with pytest.raises(Unavailable, match="the stream events is DELETING"):
            await sink.check()
    assert stream.looks == 3
    stream.status = "ACTIVE"
    await sink.check()
    await sink.check()
    assert stream.looks == 4


async def test_an_empty_batch_makes_no_call_and_closing_closes_the_client() -> None:
    stream = FakeFirehose()
    sink = sink_to(stream)
    await sink.write(SampleBatch("b", [], NOON_MS))
    assert stream.put == []
    await sink.close()
    assert stream.closed


async def test_without_a_server_write_and_check_are_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the client that production has."""
    for name, value in {**AWS_ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}.items():
        monkeypatch.setenv(name, value)
    sink = FirehoseEventSink("firehose://events", patience_s=0)
    try:
        with pytest.raises(Unavailable, match="the stream events does not take 1 record"):
            await sink.write(batch_of([like(1)]))
        with pytest.raises(Unavailable, match="the stream events does not respond"):
            await sink.check()
    finally:
        await sink.close()


async def test_missing_credentials_end_a_write_at_once() -> None:
    stream, time = FakeFirehose(otherwise=fail(NoCredentialsError())), Time()
    with pytest.raises(SettingsError, match="AWS_ACCESS_KEY_ID"):
        await sink_to(stream, time).write(batch_of([like(1)]))
    assert time.pauses == []


@pytest.mark.parametrize("name", ["", "_hidden", ".hidden", "history-x", "a/b", "a?b=c", "a b", "x" * 65])
def test_a_stream_name_that_readers_of_the_lake_would_skip_is_rejected(name: str) -> None:
    for good in ("events", "Pingfeed.events-2_b", "history"):
        assert stream_of(f"firehose://{good}") == good
    with pytest.raises(SettingsError, match="PINGFEED_EVENTS_URL"):
        stream_of(f"firehose://{name}")
