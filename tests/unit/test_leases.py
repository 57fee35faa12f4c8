"""Two processes on one lake: whatever happens to one of them, each event counts once, and the loser says busy."""

import random
from pathlib import Path

import pytest

from tests.lease_world import interleave, lease_world
from tests.prove import figure, rounds

KINDS = {"version": (1, 10), "pointer": (1, 10), "kill": (2, 20), "together": (1, 10)}
"""Usual and full count of each: together 50 interleavings."""


@pytest.fixture(scope="module")
def turns() -> list[str]:
    found = [kind for kind, counts in KINDS.items() for _ in range(rounds(*counts))]
    random.Random(1).shuffle(found)
    return found


def test_two_homes_on_one_disk_lose_and_repeat_nothing(tmp_path: Path, turns: list[str]) -> None:
    shared = {"LAKE_URL": f"file://{tmp_path}/lake", "EVENTS_URL": f"disk://{tmp_path}/lake"}
    with lease_world(tmp_path, ARTIFACTS_URL=f"file://{tmp_path}/artifacts", **shared) as world:
        for number, kind in enumerate(turns):
            interleave(world, kind, random.Random(number))
    figure("leases, file", interleavings=len(turns), **world.counts)
