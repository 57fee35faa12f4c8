"""A receiver's clock."""

import logging

import pytest

from pingfeed.core.clock import DAY_MS, SteadyClock

NOON_MS = 1_795_000_000_000


class Machine:
    """A wall clock that can be set, and the time since the machine started."""

    def __init__(self) -> None:
        self.since_start_ms, self.set_by_ms = 5_000, 0

    def pass_ms(self, ms: int) -> None:
        self.since_start_ms += ms

    def wall(self) -> int:
        return NOON_MS + self.since_start_ms + self.set_by_ms

    def clock(self) -> SteadyClock:
        return SteadyClock(self.wall, lambda: self.since_start_ms)


def test_a_clock_that_is_right_is_followed_and_small_corrections_are_too() -> None:
    machine = Machine()
    clock = machine.clock()
    for correction_ms in (0, 300, -59_000, 20_000):
        machine.pass_ms(1000)
        machine.set_by_ms += correction_ms
        assert clock() == machine.wall()


@pytest.mark.parametrize("jump_ms", [DAY_MS, -DAY_MS, 61_000])
def test_time_goes_on_during_a_jump_and_after_it(jump_ms: int, caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    clock = machine.clock()
    before = clock()
    machine.set_by_ms = jump_ms
    with caplog.at_level(logging.WARNING):
        for passed in (100, 200):
            machine.pass_ms(100)
            assert clock() == before + passed
    assert [record.getMessage()[:22] for record in caplog.records] == ["the clock jumped by " + f"{jump_ms:+}"[:2]]
    machine.set_by_ms = 0
    assert clock() == before + 200


def test_a_jump_that_lasts_is_a_correction() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.set_by_ms = DAY_MS
    clock()
    machine.pass_ms(SteadyClock.ADOPT_MS - 1)
    assert clock() == machine.wall() - DAY_MS
    machine.pass_ms(1)
    assert clock() == machine.wall()
