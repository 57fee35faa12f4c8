"""Two processes on one lake: whatever happens to one of them, each event counts once, and the loser says busy."""

from pathlib import Path

import pytest

from tests.lease_world import interleavings


@pytest.mark.timeout(1800)
def test_two_homes_on_one_disk_lose_and_repeat_nothing(tmp_path: Path) -> None:
    interleavings(
        "file",
        tmp_path,
        LAKE_URL=f"file://{tmp_path}/lake",
        EVENTS_URL=f"disk://{tmp_path}/lake",
        ARTIFACTS_URL=f"file://{tmp_path}/artifacts",
    )
