"""Whatever call the power fails at, or the disk refuses: what was acknowledged is there, and is counted once."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from pingfeed.core.errors import Unavailable
from pingfeed.spool.spool import Spool
from tests.conformance.samples import NOON_MS, eventually
from tests.prove import figure, rounds
from tests.unit.ingest_world import ingest_world
from tests.unit.power_cut import Fault, PowerCutDisk
from tests.unit.spool_story import Story

SEEDS = rounds(6, 100)
EXAMPLES = rounds(60, 1500)


def _a_life(story: Story) -> None:
    """Appends, full and half segments, two days, deliveries, signals that wait, a restart."""
    story.append([1, 2, 1])
    for _ in range(3):
        story.append([1])
    story.append([9, 4], in_flight=True, applied=False)
    story.seal()
    story.take()
    story.append([1], days=1)
    story.ack()
    story.append([2, 2], in_flight=True)
    story.seal()
    story.take()
    story.ack()
    story.take()
    story.apply()
    story.end(by_power_cut=False)
    story.open()
    story.append([3])
    story.seal()
    story.take()
    story.ack()
    story.apply()


def _calls_of_a_life() -> int:
    story = Story()
    story.open()
    _a_life(story)
    story.close()
    return story.disk.calls


def _with_a_fault_at_every_call(fault: Fault) -> int:
    """Tell a life once for each call and seed, the fault in another place each time; how many lives that were."""
    told = 0
    for call in range(1, _calls_of_a_life() + 1):
        for seed in range(SEEDS):
            story = Story(seed * 1000 + call)
            story.disk.at(call, fault)
            story.open()
            _a_life(story)
            story.finish()
            told += 1
    return told


def test_whatever_call_the_power_fails_at_what_was_acknowledged_is_there_and_counted_once() -> None:
    figure("power cut at every call of a spool's life", lives=_with_a_fault_at_every_call("cut"))


def test_an_error_at_any_call_acknowledges_nothing_and_costs_nothing_that_was() -> None:
    figure("EIO at every call of a spool's life", lives=_with_a_fault_at_every_call("eio"))


def test_a_full_disk_at_any_call_acknowledges_nothing_and_costs_nothing_that_was() -> None:
    figure("ENOSPC at every call of a spool's life", lives=_with_a_fault_at_every_call("full"))


class AnyStory(RuleBasedStateMachine):
    """Any order of steps and faults."""

    stories = 0
    cuts = 0

    @initialize(seed=st.integers(0, 1 << 30))
    def begin(self, seed: int) -> None:
        self.story = Story(seed)
        self.story.open()

    @rule(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4), days=st.integers(0, 1))
    def append(self, sizes: list[int], days: int) -> None:
        self.story.append(sizes, days=days)

    @rule(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=2), applied=st.booleans())
    def append_in_flight(self, sizes: list[int], applied: bool) -> None:
        self.story.append(sizes, in_flight=True, applied=applied)

    @rule()
    def seal(self) -> None:
        self.story.seal()

    @rule()
    def deliver(self) -> None:
        self.story.seal()
        self.story.take()
        self.story.ack()

    @rule()
    def take(self) -> None:
        self.story.take()

    @precondition(lambda self: self.story.batch is not None)
    @rule()
    def ack(self) -> None:
        self.story.ack()

    @rule()
    def apply(self) -> None:
        self.story.apply()

    @rule(call=st.integers(1, 8), fault=st.sampled_from(["cut", "eio", "full"]))
    def fail(self, call: int, fault: Fault) -> None:
        self.story.disk.at(call, fault)

    @rule(room=st.sampled_from([0, 100, 1 << 40]))
    def have_room(self, room: int) -> None:
        self.story.disk.room = room

    @rule(by_power_cut=st.booleans())
    def restart(self, by_power_cut: bool) -> None:
        self.story.end(by_power_cut=by_power_cut)
        self.story.now_ms += 1000
        self.story.open()

    def teardown(self) -> None:
        if hasattr(self, "story"):
            self.story.finish()
            AnyStory.stories += 1
            AnyStory.cuts += self.story.cuts


def test_nothing_is_lost_or_counted_twice_in_any_order_of_steps_and_faults() -> None:
    chosen = settings(max_examples=EXAMPLES, stateful_step_count=40, deadline=None, print_blob=True)
    run_state_machine_as_test(AnyStory, settings=chosen)
    figure("steps and faults in any order", stories=AnyStory.stories, power_cuts=AnyStory.cuts)


# One rule each


def test_a_count_whose_rename_was_never_synced_survives_a_restart_and_then_a_power_cut() -> None:
    for seed in range(20):
        story = AnyStory()
        story.begin(seed)
        story.append(sizes=[1], days=0)
        story.seal()
        story.take()
        story.fail(call=1, fault="eio")
        story.ack()
        story.restart(by_power_cut=False)
        story.apply()
        story.restart(by_power_cut=True)
        story.teardown()


async def _spool(folder: Path, disk: PowerCutDisk) -> Spool:
    return Spool(folder, disk=disk)


@pytest.mark.parametrize("name", ["create", "write", "sync"])
@pytest.mark.parametrize("fault", ["eio", "full"])
async def test_the_spool_takes_appends_again_by_itself_once_the_disk_does(
    tmp_path: Path, name: str, fault: Fault
) -> None:
    disk = PowerCutDisk()
    spool = await _spool(tmp_path, disk)
    if name != "create":
        await spool.append(b"before", 1, NOON_MS)
    disk.at({"create": 1, "write": 1, "sync": 2}[name], fault)
    with pytest.raises(Unavailable) as refused:
        await spool.append(b"refused", 1, NOON_MS)
    assert disk.names_of_calls[-2:].count(name) or disk.names_of_calls[-1] == "truncate"
    assert refused.value.retry_after_s >= 1
    await spool.append(b"after", 1, NOON_MS)
    await spool.close()
    again = Spool(tmp_path, disk=disk)
    lines = [record.lines for segment in again.segments() for record in again.records(segment)]
    assert [line for line in lines if line != b"refused"] == ([b"before"] if name != "create" else []) + [b"after"]
    await again.close()


async def test_after_a_failed_sync_nothing_is_appended_to_that_file_any_more(tmp_path: Path) -> None:
    disk = PowerCutDisk()
    spool = await _spool(tmp_path, disk)
    await spool.append(b"before", 1, NOON_MS)
    disk.at(2, "eio")
    with pytest.raises(Unavailable):
        await spool.append(b"refused", 1, NOON_MS)
    await spool.append(b"after", 1, NOON_MS)
    files = [name for name in disk.names(tmp_path) if name.endswith(".segment")]
    assert len(files) == 2
    assert not disk.misused
    await spool.close()


async def test_on_a_disk_that_is_down_to_its_reserve_appends_are_refused_and_delivery_goes_on(tmp_path: Path) -> None:
    """Or the tally that makes room could not be written, and a full disk would stay so."""
    disk = PowerCutDisk()
    spool = await _spool(tmp_path, disk)
    await spool.append(b"before", 1, NOON_MS)
    disk.room = 0
    for refuses in (spool.append(b"refused", 1, NOON_MS), spool.check()):
        with pytest.raises(Unavailable, match="No space left"):
            await refuses
    spool.seal()
    batch = await spool.next_batch()
    assert batch is not None
    await spool.ack(batch)
    assert spool.depth() == (0, 0)
    disk.room = 1 << 20
    await spool.check()
    await spool.append(b"after", 1, NOON_MS)
    await spool.close()


async def test_no_byte_of_a_202_is_sent_before_the_sync_has_returned(tmp_path: Path) -> None:
    disk = PowerCutDisk()
    async with ingest_world(tmp_path, disk=disk) as world:
        sent: list[dict[str, Any]] = []
        disk.hold_syncs()
        body = b'{"event_type":"like","user_id":"u1","ping_id":"p1"}'
        answering = asyncio.create_task(_call(world.app, "/track-event", body, sent.append))
        await eventually(disk.sync_begun.is_set)
        for _ in range(200):
            await asyncio.sleep(0)
        assert sent == []
        assert not answering.done()
        disk.sync_may_go_on.set()
        await answering
        assert [message["type"] for message in sent[:2]] == ["http.response.start", "http.response.body"]
        assert sent[0]["status"] == 202


async def test_a_sync_that_fails_is_a_503_with_retry_after_and_the_event_may_be_sent_again(tmp_path: Path) -> None:
    disk = PowerCutDisk()
    async with ingest_world(tmp_path, disk=disk) as world:
        event = {"event_type": "like", "user_id": "u1", "ping_id": "p1", "event_id": f"{7:08d}-0000-7000-8000-{1:012d}"}
        disk.at(3, "eio")
        answer = await world.send(event)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert (await world.send(event)).json() == {"accepted": 1, "duplicates": 0, "rejected": []}
    assert [row["event_id"] for row in world.sink.rows] == [event["event_id"]]


async def _call(app: Any, path: str, body: bytes, sent: Callable[[dict[str, Any]], None]) -> None:
    """One request, straight into the app, so that each message it sends is seen when it is sent."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": ("127.0.0.1", 5000),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }
    asked = 0

    async def receive() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        if asked > 1:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent(message)

    await app(scope, receive, send)
