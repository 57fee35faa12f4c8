"""What every Lease promises (`ports.Lease`). A new adapter is one entry of ADAPTERS."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pingfeed.adapters.lease_dynamodb import DynamodbLease
from pingfeed.adapters.lease_file import FileLease
from pingfeed.core.errors import Busy
from pingfeed.ports import Lease
from tests.conformance.place import Place

pytestmark = pytest.mark.conformance
ADAPTERS: dict[str, Callable[[Place], Any]] = {
    "file": lambda place: lambda clock: FileLease(f"file://{place.folder}/lease", clock),
    "dynamodb": lambda place: lambda clock: DynamodbLease(f"dynamodb://{place.table}", clock),
}
SECONDS = 60


class World:
    """Opens leases at one place, with a clock that a test moves."""

    def __init__(self, make: Callable[[Callable[[], int]], Lease]) -> None:
        self.now_ms = 1_800_000_000_000
        self._make = make

    def open(self) -> Lease:
        return self._make(lambda: self.now_ms)


@pytest.fixture
def world(open_store: Callable[[], Any]) -> World:
    return World(open_store())


def test_one_holds_it_at_a_time(world: World) -> None:
    one, other = world.open(), world.open()
    assert one.holder() == ""
    fence = one.acquire(SECONDS)
    for lease in (one, other):
        with pytest.raises(Busy, match="held by"):
            lease.acquire(SECONDS)
    assert f"(number {fence})" in other.holder()
    one.release(fence)
    assert other.holder() == ""
    other.release(other.acquire(SECONDS))


def test_the_number_only_grows(world: World) -> None:
    numbers = []
    for lease in (world.open(), world.open(), world.open()):
        numbers.append(lease.acquire(SECONDS))
        lease.release(numbers[-1])
    assert numbers == sorted(set(numbers))
    assert world.open().acquire(SECONDS, floor=numbers[-1] + 40) > numbers[-1] + 40


def test_an_expired_one_is_taken_and_its_holder_learns_it(world: World) -> None:
    one, other = world.open(), world.open()
    lost = one.acquire(SECONDS)
    world.now_ms += SECONDS * 1000
    fence = other.acquire(SECONDS)
    assert fence > lost
    with pytest.raises(Busy):
        one.renew(lost, SECONDS)
    one.release(lost)
    assert f"(number {fence})" in one.holder(), "the loser released nothing"


def test_a_renewed_one_lasts(world: World) -> None:
    one, other = world.open(), world.open()
    fence = one.acquire(SECONDS)
    world.now_ms += SECONDS * 1000 - 1
    one.renew(fence, SECONDS)
    world.now_ms += SECONDS * 1000 - 1
    with pytest.raises(Busy):
        other.acquire(SECONDS)


def test_one_that_expired_and_that_no_one_took_is_renewed(world: World) -> None:
    one = world.open()
    fence = one.acquire(SECONDS)
    world.now_ms += SECONDS * 5000
    one.renew(fence, SECONDS)
    with pytest.raises(Busy):
        world.open().acquire(SECONDS)


def test_of_many_at_once_one_gets_it(world: World) -> None:
    world.open().holder()

    def take(lease: Lease) -> int:
        try:
            return lease.acquire(SECONDS)
        except Busy:
            return 0

    for _ in range(5):
        leases = [world.open() for _ in range(6)]
        with ThreadPoolExecutor(6) as pool:
            taken = list(pool.map(take, leases))
        assert sum(fence > 0 for fence in taken) == 1
        [(lease, fence)] = [one for one in zip(leases, taken, strict=True) if one[1]]
        lease.release(fence)
