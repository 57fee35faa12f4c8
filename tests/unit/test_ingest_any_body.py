"""Any bytes as a body get a defined response, never a crash; a bad event never affects the others of its request."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import httpx
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pingfeed.core.events import CLIENT_TYPES
from pingfeed.core.ids import uuid7
from tests.prove import figure, rounds
from tests.unit.ingest_world import NOW_MS, World, ingest_world

EXAMPLES = rounds(150, 2_000)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
field_names = st.sampled_from(
    ["event_id", "user_id", "ping_id", "creator_id", "timestamp", "watch_time_ratio", "topics", "attributes", "facets"]
)
near_events = st.builds(
    lambda kind, fields: {"event_type": kind, "user_id": "u", "ping_id": "p", **fields},
    st.sampled_from([*CLIENT_TYPES, "feed_served", "other"]),
    st.dictionaries(field_names | st.text(max_size=6), json_values, max_size=4),
)
odd_events = st.sampled_from(
    [
        b'{"event_type":"like","user_id":"u","ping_id":"p","x":1e999}',
        b'{"event_type":"like","user_id":"u","ping_id":"\xff"}',
        b'{"event_type":"like","user_id":"u","ping_id":"p","x":"\\ud83d"}',
        b'{"event_type":"like","user_id":"u","ping_id":"p","x":' + b"[" * 100 + b"]" * 100 + b"}",
        b'{"event_type":"like","user_id":"u","ping_id":"p","x":"\\u0000"}',
        b'{"event_type":"like","event_type":"view"}',
        b"-0",
        b"123456789012345678901234567890123456789012345678901234567890",
        b'""',
        b"{}",
    ]
)
an_event = (
    odd_events
    | near_events.map(lambda event: json.dumps(event).encode())
    | json_values.map(lambda value: json.dumps(value).encode())
)
valid = b'{"events":[' + b",".join([b'{"event_type":"like","user_id":"u","ping_id":"p"}'] * 3) + b"]}"


@st.composite
def mutated_bodies(draw: st.DrawFn) -> bytes:
    """A valid body with a few bytes changed, removed or repeated."""
    body = bytearray(valid)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(body) - 1))
        body[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3) | st.just(bytes(body[at : at + 9])))
    return bytes(body)


bodies = st.binary(max_size=300) | json_values.map(lambda value: json.dumps(value).encode()) | mutated_bodies()
chosen = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))


@contextmanager
def _world(folder: Path) -> Iterator[tuple[World, Callable[[bytes, str], httpx.Response]]]:
    """A running app, and how to post to it from a test that hypothesis calls many times."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def begin() -> World:
            return await stack.enter_async_context(ingest_world(folder))

        world = runner.run(begin())
        yield world, lambda body, path: runner.run(world.send_bytes(body, path))
        runner.run(stack.aclose())


def test_every_body_gets_a_defined_response(tmp_path: Path) -> None:
    with _world(tmp_path) as (_, post):

        @chosen
        @given(bodies | an_event)
        @example(b"")
        @example(b"[" * 100_000)
        @example(b'{"events":[' + b"[" * 100_000 + b"]" * 100_000 + b"]}")
        def any_body(body: bytes) -> None:
            for path in ("/track-event", "/track-events"):
                answer = post(body, path)
                assert answer.status_code in (202, 400, 413, 422)
                said = answer.json()
                assert {"accepted", "duplicates", "rejected"} == said.keys() or "code" in said["error"]

        any_body()
    figure("bodies of any bytes", bodies=2 * EXAMPLES)


def test_valid_events_are_accepted_and_delivered_beside_any_others(tmp_path: Path) -> None:
    sent: list[str] = []
    with _world(tmp_path) as (world, post):

        @chosen
        @given(st.lists(an_event, min_size=1, max_size=4))
        def good_beside_bad(bad: list[bytes]) -> None:
            ids = [uuid7(NOW_MS), uuid7(NOW_MS)]
            good = [
                b'{"event_type":"hide","user_id":"good","ping_id":"p","event_id":"%s"}' % one.encode() for one in ids
            ]
            answer = post(b'{"events":[' + b",".join([good[0], *bad, good[1]]) + b"]}", "/track-events")
            assert answer.status_code == 202
            said = answer.json()
            rejected = {one["index"] for one in said["rejected"]}
            assert not rejected & {0, len(bad) + 1}
            assert said["accepted"] + said["duplicates"] + len(rejected) == len(bad) + 2
            sent.extend(ids)

        good_beside_bad()
    assert set(sent) <= {row["event_id"] for row in world.sink.rows if row.get("user_id") == "good"}
