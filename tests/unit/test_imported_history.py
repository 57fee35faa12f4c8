"""What users forbade before they moved here is never shown, on any page: history imported from a CSV."""

import asyncio
import random
from collections import defaultdict
from pathlib import Path

import pytest

from pingfeed import cli
from pingfeed.core.clock import DAY_MS, HOUR_MS, to_iso
from tests.prove import figure, rounds
from tests.unit.loop_world import NOON_MS, loop_world

USERS = rounds(12, 400)
PINGS, CREATORS = 300, 30


def history(path: Path, rng: random.Random) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Write the file; the pings and the creators that each user forbade."""
    hidden, blocked = defaultdict(set), defaultdict(set)
    lines = ["user,ping,action,creator,at"]
    for n in range(PINGS):
        lines.append(f",p{n},ping_created,c{n % CREATORS},{to_iso(NOON_MS - 9 * DAY_MS + n)}")
    for user in (f"user-{n}" for n in range(USERS)):
        at_ms = NOON_MS - rng.randrange(2 * HOUR_MS, 8 * DAY_MS)
        for n, ping in enumerate(rng.sample(range(PINGS), 20)):
            action = ("hide", "report", "like", "impression", "impression")[n % 5]
            lines.append(f"{user},p{ping},{action},c{ping % CREATORS},{to_iso(at_ms + n * 1000)}")
            if action in ("hide", "report"):
                hidden[user].add(f"p{ping}")
        for creator in rng.sample(range(CREATORS), 3):
            lines.append(f"{user},,block,c{creator},{to_iso(at_ms + 60_000)}")
            blocked[user].add(f"c{creator}")
    path.write_text("\n".join(lines) + "\n")
    return hidden, blocked


async def test_nothing_that_imported_history_forbids_is_on_any_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, blocked = history(tmp_path / "history.csv", random.Random(4))
    mapping = "user_id=user,ping_id=ping,event_type=action,creator_id=creator,timestamp=at"
    command = ["import", "csv", str(tmp_path / "history.csv"), "--map", mapping, "--at", to_iso(NOON_MS), "--json"]
    async with loop_world(tmp_path / "home", EXPLORE_SHARE="1") as loop:
        monkeypatch.setenv("PINGFEED_HOME", str(tmp_path / "home"))
        assert await asyncio.to_thread(cli.main, command) == 0
        await loop.tick(night=True)
        pages = feeds = shown = 0
        for user in (f"user-{n}" for n in range(USERS)):
            items = await loop.pages(user)
            assert len(items) > PINGS // 2
            shown += len(items)
            wrong = [i["ping_id"] in hidden[user] or i["creator_id"] in blocked[user] for i in items]
            feeds += any(wrong[:10])
            pages += any(wrong)
        figure("imported history", users=USERS, items=shown, feeds_with_forbidden=feeds, pages_with_forbidden=pages)
        assert (feeds, pages) == (0, 0)
