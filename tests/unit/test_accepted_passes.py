"""Anything that ever got a 202 passes etl, tick and train: generated events, the largest that each limit allows too."""

import os
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batch.jobs import tick
from batch.jobs.nightly import etl
from batch.training import train as training
from ingest_api.decode import decode
from pingfeed.core.events import CLIENT_TYPES, MAX_LIST, MAX_NAMES, MAX_ROW_BYTES, ONE_TARGET, Row
from pingfeed.core.ids import uuid7
from tests.unit.lakes import DAY, FIRST, TICK_MS, LakeWorld

COUNT = 5_000 if os.environ.get("PROVE_ROUNDS") == "full" else 600
TEXTS = ["", "a", "é" * 30, "\0", "\ud7ff", "\U0001f600" * 20, "'; --", "x" * 128, "a=b", "\n", "{}", "NULL"]
NUMBERS = [0, -0.0, 1, 1e-308, 5e-324, 1.7976931348623157e308, -1e308, 2**53, 10**30]
IDS = ["u", "p" * 128, "-", ".", "@", "a:b", "0", *(f"x{i}" for i in range(200))]
TIMES = ["2001-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "1969-12-31T23:59:59.999Z", None]


def event(rng: random.Random) -> dict[str, Any]:
    """A random event, most of them valid, some of every field's extremes."""
    fields: dict[str, Any] = {name: rng.choice(IDS) for name in ("user_id", "ping_id", "creator_id", "request_id")}
    fields |= {name: rng.choice([*TEXTS, None, 7]) for name in ("country", "language", "device", "app_version")}
    fields |= {"position": rng.choice([0, 1, 10_000, None]), "watch_time_ratio": rng.choice([0, 0.5, 1e308, 5e-324])}
    fields |= {
        "timestamp": rng.choice(TIMES),
        "sent_at": rng.choice(TIMES),
        "duration_ms": rng.choice([0, 1, 86_400_000]),
    }
    size = rng.choice([0, 1, MAX_LIST])
    labels = [rng.choice(TEXTS[1:]) for _ in range(size)]
    fields |= {"topics": labels, "facets": {f"f{i}": labels[:14] for i in range(rng.choice([0, MAX_NAMES]))}}
    fields["attributes"] = {f"a{i}": rng.choice(NUMBERS) for i in range(rng.choice([0, MAX_NAMES]))}
    kind = rng.choice(list(CLIENT_TYPES))
    known = CLIENT_TYPES[kind].__struct_fields__
    extra = {"of_the_app": "x" * (MAX_ROW_BYTES - 4_000)} if rng.random() < 0.02 else {}
    fields["interests"] = labels
    target = rng.choice([{"topic": rng.choice(TEXTS[1:])}, {"creator_id": rng.choice(IDS)}])
    if kind in ONE_TARGET:
        fields = {name: value for name, value in fields.items() if name not in ONE_TARGET[kind]} | target
    return {"event_type": kind} | {name: value for name, value in fields.items() if name in known} | extra


def accepted(count: int) -> list[Row]:
    rng = random.Random(11)
    rows: list[Row] = []
    while len(rows) < count:
        body = msgspec.json.encode({"events": [event(rng) for _ in range(50)]})
        rows += decode(body, (FIRST + len(rows) % 5) * TICK_MS - 1, uuid7, many=True)[0]
    return rows


@pytest.mark.parametrize("facets", ["topics", "topics,f0,f15"])
def test_accepted_events_pass_etl_tick_and_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, facets: str) -> None:
    world = LakeWorld(tmp_path, {"PINGFEED_FACETS": facets, "PINGFEED_ATTRIBUTES": "a0,a15"})
    rows = accepted(COUNT)
    world.land(rows)
    monkeypatch.setattr(training, "MIN_ENGAGED_REQUESTS", 1)
    world.time.now_ms = (FIRST + 5) * TICK_MS + 5_000
    done = tick.run(world.batch, FIRST + 5)
    assert (done.read, done.quarantined, done.left_out, done.rejected) == (len(rows), 0, 0, 0)
    assert done.pings
    assert done.packets
    world.time.now_ms = (FIRST + 2 * DAY) * TICK_MS + 5_000
    assert etl(world.batch, FIRST + 2 * DAY).quarantined == 0
    training.train(world.batch, FIRST + 2 * DAY)
