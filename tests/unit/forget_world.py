"""A lake in which one user is everywhere that a user can be, and a search of all that an installation keeps.

`ZOE` is to be deleted. She is in raw files of every format, in Firehose's errors, in rejected events and malformed
rows, in clean events, aggregates, states and training rows, in a packet, in the signals and in the trending counters;
`ada` is wherever she is. Day FIRST_DAY is compacted, the day after is not; it is noon then.
"""

import asyncio
import base64
import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq

from batch.jobs import tick as ticking
from batch.ops.forget import forget_users
from batch.training import training_set
from pingfeed.adapters import registry
from pingfeed.core.clock import day_of
from pingfeed.core.events import Row, encode_rows
from pingfeed.core.signals import Act
from pingfeed.core.trending import Engagement
from tests.unit.lakes import DAY, FIRST, TICK_MS, LakeWorld, partition, row

ZOE = "zoe.Unmistakable:1@example"
USERS = ("ada", ZOE)
NOON = FIRST + DAY + 48
NIGHT = FIRST + 2 * DAY + 12
_ACTS = ("impression", "like", "hide", "share", "comment")


def opened(home: Path, built: Path) -> LakeWorld:
    """The world that was `build`ed elsewhere, with a home of its own; what lands gets new names."""
    shutil.copytree(built, home)
    world = LakeWorld(home)
    world._files = 100
    world.at(NOON)
    return world


def build(home: Path) -> None:
    """The world at NOON, after a night and a tick."""
    world = LakeWorld(home)
    about = ({"ping_id": f"p{n}", "creator_id": f"c{n % 3}", "topics": ["x"]} for n in range(9))
    world.land(row("ping_created", FIRST * TICK_MS, **one) for one in about)
    world.land(_day(FIRST + 1), history=True)
    world.learn(FIRST + 1, everything=True)
    world.land(_day(FIRST + 5))
    world.learn(FIRST + 5)
    land_bytes(world, FIRST + 6, "plain", encode_rows(_day(FIRST + 6)))
    odd = b'{"user_id":"%s"}' % ZOE.encode()
    land_bytes(world, FIRST + 7, "packed.gz", gzip.compress(encode_rows(_day(FIRST + 7)) + odd))
    world.learn(FIRST + 7)
    world.night(FIRST + DAY + 12)
    world.land(_day(FIRST + DAY + 20))
    land_bytes(world, FIRST + DAY + 20, "errors", _error(_day(FIRST + DAY + 20)), root="errors/processing-failed")
    _refuse(world, FIRST + DAY + 21)
    training_set.collect(world.batch, FIRST + DAY + 12, 30)
    world.batch.tables.versions.commit()
    world.at(NOON)
    ticking.run(world.batch, NOON)
    asyncio.run(_told(world))


def forget(world: LakeWorld, user: str = ZOE) -> None:
    forget_users(world.batch, [user])


def land_bytes(world: LakeWorld, tick: int, name: str, data: bytes, root: str = "events") -> None:
    world.batch.tables.lake.write(f"{root}/{partition(tick * TICK_MS - 1)}/{name}", data)


def _day(tick: int) -> list[Row]:
    """What both did just before a tick: a feed was served to each, they followed, blocked and acted."""
    ms = tick * TICK_MS - 60_000
    rows: list[Row] = []
    for user in USERS:
        about: dict[str, Any] = {"user_id": user, "request_id": f"r{tick}-{USERS.index(user)}", "country": "DE"}
        pings = [f"p{n}" for n in range(len(_ACTS))]
        rows.append(row("feed_served", ms, served_pings=pings, snapshot_tick=tick - 1, packet_tick=tick - 1, **about))
        rows += [row(kind, ms + n, ping_id=f"p{n}", position=n, **about) for n, kind in enumerate(_ACTS)]
        rows.append(row("follow", ms + 10, user_id=user, creator_id="c1"))
        rows.append(row("block", ms + 11, user_id=user, creator_id="c2"))
        rows.append(row("user_updated", ms + 12, user_id=user, language="de"))
    return rows


def _error(rows: list[Row]) -> bytes:
    record = base64.b64encode(encode_rows(rows) + b'{"user_id": "%s", "event_type": 3}\n' % ZOE.encode())
    only_hers = base64.b64encode(encode_rows([r for r in rows if r["user_id"] == ZOE]))
    lines = ({"rawData": one.decode(), "errorCode": "x", "arrivalTimestamp": 1} for one in (record, only_hers))
    return b"\n".join(json.dumps(line).encode() for line in lines)


def _refuse(world: LakeWorld, tick: int) -> None:
    ms = tick * TICK_MS - 1
    bodies = (f'{{"event_type":"view","user_id":"{ZOE}"}}', '{"event_type":"view","user_id":"ada"}')
    lines = [{"received_ms": ms, "code": "c", "field": None, "message": "m", "body": body} for body in bodies]
    world.batch.tables.lake.write(f"rejected/day={day_of(ms)}/w1.jsonl", msgspec.json.Encoder().encode_lines(lines))


async def _told(world: LakeWorld) -> None:
    """What the ingest service tells the stores."""
    signals = registry.open_signals(world.batch.settings)
    trending = registry.open_trending(world.batch.settings)
    now_ms = world.batch.clock()
    for user in USERS:
        await signals.apply([Act(user, "follow", "c1", now_ms), Act(user, "hide", "p4", now_ms)])
        await trending.add([Engagement(user, "p1", "like", "DE", now_ms)])
    await signals.close()
    await trending.close()


def places_of(world: LakeWorld, user: str) -> list[str]:
    """Where a user's id is found, except in rejected events: names and files, also inside Parquet, gzip, base64."""
    files = sorted(path for path in world.home.rglob("*") if path.is_file() and path.name != "w1.jsonl")
    return [path.relative_to(world.home).as_posix() for path in files if user in str(path) or user in _text(path)]


def _text(path: Path) -> str:
    data = path.read_bytes()
    text = data.decode("latin-1")
    if data.startswith(b"\x1f\x8b"):
        text += gzip.decompress(data).decode("latin-1")
    if path.suffix == ".parquet":
        text += repr(pq.read_table(path, partitioning=None).to_pylist())
    if "/errors/" in str(path):
        lines = [json.loads(line) for line in data.splitlines() if line.strip()]
        text += "".join(base64.b64decode(line.get("rawData", "")).decode() for line in lines)
    return text
