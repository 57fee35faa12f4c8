"""Calls that wait together go on as one, in order, and each hears how it went."""

import asyncio
from collections.abc import Sequence

import pytest

from pingfeed.core.errors import Unavailable
from pingfeed.local.gather import MAX_ITEMS, Gathered


class Recorder:
    """Takes calls, one at a time, each when it is let go on."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.go_on = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, items: Sequence[int]) -> None:
        self.calls.append(list(items))
        await self.go_on.wait()
        if self.error is not None:
            raise self.error


async def test_what_comes_while_a_call_is_under_way_goes_in_the_next_in_order() -> None:
    recorder = Recorder()
    gathered = Gathered(recorder)
    first = asyncio.create_task(gathered([1, 2]))
    await asyncio.sleep(0.01)
    others = [asyncio.create_task(gathered([n])) for n in (3, 4, 5)]
    await asyncio.sleep(0.01)
    assert recorder.calls == [[1, 2]]
    recorder.go_on.set()
    await asyncio.gather(first, *others)
    assert recorder.calls == [[1, 2], [3, 4, 5]]


async def test_every_caller_of_a_failed_call_hears_of_it_and_the_next_call_is_made() -> None:
    recorder = Recorder()
    recorder.go_on.set()
    gathered = Gathered(recorder)
    recorder.error = Unavailable("down")
    outcomes = await asyncio.gather(gathered([1]), gathered([2]), return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["down", "down"]
    recorder.error = None
    await gathered([3])
    assert recorder.calls == [[1, 2], [3]]


async def test_a_caller_that_goes_away_takes_nobodys_items_with_it() -> None:
    recorder = Recorder()
    gathered = Gathered(recorder)
    going, staying = asyncio.create_task(gathered([1])), asyncio.create_task(gathered([2]))
    await asyncio.sleep(0.01)
    going.cancel()
    recorder.go_on.set()
    await staying
    with pytest.raises(asyncio.CancelledError):
        await going
    assert recorder.calls == [[1, 2]]


async def test_a_call_is_bounded_but_a_single_large_one_is_not_cut() -> None:
    recorder = Recorder()
    recorder.go_on.set()
    gathered = Gathered(recorder)
    await asyncio.gather(gathered([1]), gathered([2] * MAX_ITEMS), gathered([3] * (MAX_ITEMS + 1)), gathered([4]))
    assert [len(call) for call in recorder.calls] == [1, MAX_ITEMS, MAX_ITEMS + 1, 1]
