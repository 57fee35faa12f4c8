"""Loads a model and a snapshot with one bit flipped, again and again, as a feed does: `FLIPS` flips of each file.

A process of its own, because a flip that reaches LightGBM may abort it. Prints how many of the flips were accepted.
"""

import asyncio
import random
import sys

from feed_api.artifact_loader import ArtifactLoader
from feed_api.metrics import FeedMetrics
from pingfeed.core.ranker import model_key, snapshot_key
from pingfeed.web.metrics import Metrics
from tests.unit.fakes import MemoryArtifacts
from tests.unit.feed_world import FEATURES, catalogue, put_snapshot, snapshot_bytes
from tests.unit.small_model import train
from tests.unit.test_integrity import point, put_model


async def main(flips: int) -> None:
    artifacts = MemoryArtifacts()
    put_model(artifacts.data, "m1", train().model_to_string().encode())
    put_snapshot(artifacts.data, snapshot_bytes(catalogue(200), tick=7), 7)
    point(artifacts.data, "model", "m1")
    point(artifacts.data, "snapshot", "7")
    rng = random.Random(1)
    accepted = 0
    for key in (model_key("m1", "model.txt"), snapshot_key(7)):
        whole = artifacts.data[key]
        for _ in range(flips):
            damaged = bytearray(whole)
            at = rng.randrange(len(whole) * 8)
            damaged[at // 8] ^= 1 << at % 8
            artifacts.data[key] = bytes(damaged)
            loader = ArtifactLoader(artifacts, FEATURES, FeedMetrics(Metrics()))
            await loader.refresh()
            accepted += loader.live.has_model if "model" in key else loader.live.has_snapshot
        artifacts.data[key] = whole
    print(accepted)  # noqa: T201 - the result


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
