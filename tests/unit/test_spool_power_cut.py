"""Whichever disk call fails or loses power: acknowledged records are there, and count once."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
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
    """Appends, full and partial segments, two days, deliveries, unapplied signals, a restart."""
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


@pytest.mark.parametrize("fault", ["cut", "eio", "full"])
def test_a_fault_at_any_disk_call_loses_and_double_counts_nothing_acknowledged(fault: Fault) -> None:
    """One life for each call and seed, the fault at another call each time."""
    lives = 0
    for call in range(1, _calls_of_a_life() + 1):
        for seed in range(SEEDS):
            story = Story(seed * 1000 + call)
            story.disk.at(call, fault)
            story.open()
            _a_life(story)
            story.finish()
            lives += 1
    figure(f"{fault} at every call of a spool's life", lives=lives)


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

    @rule(step=st.sampled_from(["seal", "take", "apply"]))
    def step(self, step: str) -> None:
        getattr(self.story, step)()

    @rule()
    def deliver(self) -> None:
        self.story.seal()
        self.story.take()
        self.story.ack()

    @precondition(lambda self: self.story.batch is not None)
    @rule()
    def ack(self) -> None:
        self.story.ack()

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


def test_a_tally_whose_rename_was_not_synced_survives_a_restart_and_then_a_power_cut() -> None:
    for seed in range(20):
        story = AnyStory()
        story.begin(seed)
        story.append(sizes=[1], days=0)
        story.step("seal")
        story.step("take")
        story.fail(call=1, fault="eio")
        story.ack()
        story.restart(by_power_cut=False)
        story.step("apply")
        story.restart(by_power_cut=True)
        story.teardown()


@pytest.mark.parametrize("name", ["create", "write", "sync"])
@pytest.mark.parametrize("fault", ["eio", "full"])
async def test_appends_succeed_again_once_the_disk_does(tmp_path: Path, name: str, fault: Fault) -> None:
    disk = PowerCutDisk()
    spool = Spool(tmp_path, disk=disk)
    if name != "create":
        await spool.append(b"before", 1, NOON_MS)
    disk.at({"create": 1, "write": 1, "sync": 2}[name], fault)
    with pytest.raises(Unavailable) as failed:
        await spool.append(b"failed", 1, NOON_MS)
    assert disk.names_of_calls[-2:].count(name) or disk.names_of_calls[-1] == "truncate"
    assert failed.value.retry_after_s >= 1
    await spool.append(b"after", 1, NOON_MS)
    await spool.close()
    again = Spool(tmp_path, disk=disk)
    lines = [record.lines for segment in again.segments() for record in again.records(segment)]
    assert [line for line in lines if line != b"failed"] == ([b"before"] if name != "create" else []) + [b"after"]
    await again.close()


async def test_after_a_failed_sync_the_file_is_never_appended_to(tmp_path: Path) -> None:
    disk = PowerCutDisk()
    spool = Spool(tmp_path, disk=disk)
    await spool.append(b"before", 1, NOON_MS)
    disk.at(2, "eio")
    with pytest.raises(Unavailable):
        await spool.append(b"failed", 1, NOON_MS)
    await spool.append(b"after", 1, NOON_MS)
    files = [name for name in disk.names(tmp_path) if name.endswith(".segment")]
    assert len(files) == 2
    assert not disk.misused
    await spool.close()


async def test_on_a_disk_down_to_its_reserve_appends_fail_and_delivery_goes_on(tmp_path: Path) -> None:
    """Otherwise the tally that makes room could not be written, and a full disk would stay full."""
    disk = PowerCutDisk()
    spool = Spool(tmp_path, disk=disk)
    await spool.append(b"before", 1, NOON_MS)
    disk.room = 0
    for step in (spool.append(b"failed", 1, NOON_MS), spool.check()):
        with pytest.raises(Unavailable, match="No space left"):
            await step
    spool.seal()
    batch = await spool.next_batch()
    assert batch is not None
    await spool.ack(batch)
    assert spool.depth() == (0, 0)
    disk.room = 1 << 20
    await spool.check()
    await spool.append(b"after", 1, NOON_MS)
    await spool.close()


async def test_no_byte_of_a_202_is_sent_before_the_sync_returns(tmp_path: Path) -> None:
    disk = PowerCutDisk()
    sent: list[Any] = []
    async with ingest_world(tmp_path, disk=disk) as world:

        async def recorded(scope: Any, receive: Any, send: Any) -> None:
            async def record(message: Any) -> None:
                sent.append(message)
                await send(message)

            await world.app(scope, receive, record)

        disk.hold_syncs()
        body = {"event_type": "like", "user_id": "u1", "ping_id": "p1"}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(recorded), base_url="http://ingest") as client:
            answering = asyncio.create_task(client.post("/track-event", json=body))
            await eventually(disk.sync_begun.is_set)
            for _ in range(200):
                await asyncio.sleep(0)
            assert (sent, answering.done()) == ([], False)
            disk.sync_may_go_on.set()
            assert (await answering).status_code == 202
    assert [message["type"] for message in sent[:2]] == ["http.response.start", "http.response.body"]


async def test_a_failed_sync_is_a_503_with_retry_after_and_the_event_can_be_sent_again(tmp_path: Path) -> None:
    disk = PowerCutDisk()
    async with ingest_world(tmp_path, disk=disk) as world:
        event = {"event_type": "like", "user_id": "u1", "ping_id": "p1", "event_id": f"{7:08d}-0000-7000-8000-{1:012d}"}
        disk.at(3, "eio")
        answer = await world.send(event)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert (await world.send(event)).json() == {"accepted": 1, "duplicates": 0, "rejected": []}
    assert [row["event_id"] for row in world.sink.rows] == [event["event_id"]]
