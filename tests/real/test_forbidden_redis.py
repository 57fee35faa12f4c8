"""The stories of `tests/unit/test_forbidden.py` with the signals in Redis, which loses everything now and then."""

from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.prove import figure, rounds
from tests.servers import Server
from tests.unit.loop_world import loop_world
from tests.unit.test_forbidden import STEPS, tell

pytestmark = pytest.mark.real
SEEDS = rounds(1, 20)


@pytest.mark.timeout(1800)
async def test_no_page_ever_shows_what_is_forbidden(own_redis: Server, tmp_path: Path) -> None:
    shown, url = 0, f"redis://127.0.0.1:{own_redis.port}"
    async with Redis(port=own_redis.port) as redis:

        async def lose() -> None:
            await redis.flushall()

        for seed in range(100, 100 + SEEDS):
            await lose()
            async with loop_world(tmp_path / str(seed), EXPLORE_SHARE="1", SIGNALS_URL=url) as loop:
                loop.lose_signals = lose  # type: ignore[method-assign]
                shown += await tell(loop, seed)
    figure("forbidden, in Redis", stories=SEEDS, steps=SEEDS * STEPS, items=shown)
    assert shown > 50 * SEEDS
