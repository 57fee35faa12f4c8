"""What only the batch side knows of a user's history reaches no page of the feed, refill and exploration included."""

import random
from pathlib import Path

import pytest

from batch.jobs import tick
from batch.jobs.nightly import etl
from tests.unit.feed_world import feed_world
from tests.unit.lakes import DAY, FIRST, TICK_MS, LakeWorld, row

PINGS = [f"p{i:04}" for i in range(1000)]
SEEN = set(random.Random(3).sample(PINGS, 500))
HIDDEN = {"p0998", "p0999"}
BLOCKED = {ping for i, ping in enumerate(PINGS) if i % 40 == 7}
NOW = FIRST + 2 * DAY


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An imported history of ann, whose acts no signals know, and a packet of hers."""
    world = LakeWorld(tmp_path_factory.mktemp("world"))
    at_ms = FIRST * TICK_MS - 1
    made = [row("ping_created", at_ms, ping_id=ping, creator_id=f"c{i % 40}") for i, ping in enumerate(PINGS)]
    acts = [row("impression", at_ms, user_id="ann", ping_id=ping) for ping in sorted(SEEN)]
    acts += [row("hide", at_ms, user_id="ann", ping_id=ping) for ping in sorted(HIDDEN)]
    world.land([*made, *acts, row("block", at_ms, user_id="ann", creator_id="c7")], history=True)
    world.time.now_ms = NOW * TICK_MS + 5_000
    etl(world.batch, NOW)
    tick.run(world.batch, NOW, everyone=True)
    return world.home


async def test_a_packet_keeps_what_the_batch_side_excluded_off_every_page(home: Path, tmp_path: Path) -> None:
    store = LakeWorld(home).batch.open_candidates()
    packet = await store.get("ann", NOW * TICK_MS)
    await store.close()
    assert packet is not None
    folder = home / "artifacts"
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}
    async with feed_world(tmp_path, artifacts=files, EXPLORE_SHARE="1") as world:
        world.give("ann", packet)
        pages = [await world.feed("ann", limit=50, explain=True)]
        while cursor := pages[-1]["next_cursor"]:
            pages.append(await world.feed("ann", limit=50, explain=True, cursor=cursor))
    items = [item for page in pages for item in page["items"]]
    assert not (HIDDEN | BLOCKED) & {item["ping_id"] for item in items}
    shown = {item["ping_id"] for item in items if item["reason"] != "again"}
    for name, kept_off in (("hidden", HIDDEN), ("blocked", BLOCKED), ("seen", SEEN)):
        assert not shown & kept_off, f"{len(shown & kept_off)} {name} pings of {len(shown)}"
    assert shown == set(PINGS) - HIDDEN - BLOCKED - SEEN, "all others, to the end"
    removed = {entry["ping_id"]: entry["reason"] for page in pages for entry in page["removed"]}
    assert {removed[ping] for ping in HIDDEN | BLOCKED if ping in removed} == {"hidden"}
    assert {removed[ping] for ping in SEEN - HIDDEN - BLOCKED} == {"seen"}
