"""Feed quality: the mean true affinity of a feed's first ten pings, compared with two feeds that are not personalised.

The baselines are the ten most popular pings (by the number of users' likes, comments, shares and views of at least
half, over the last 7 days of raw events) and the ten newest. Neither leaves out pings that the user has seen. The feed
does, which makes the comparison harder for the feed; a second evaluation of the same users within the hour gets what
the first one left over. Pings from outside this world have no true affinity and count in no list.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.compute as pc

from pingfeed.core.arrow import EVENT_SCHEMA
from pingfeed.core.clock import DAY_MS
from pingfeed.core.errors import NotFound
from simulator.behave import UNKNOWN_PING, numbers_of
from simulator.lake import open_lake
from simulator.people import Floats, Ints
from simulator.remote import Services
from simulator.world import World, user_id

LIST: Final = 10
_POPULAR_MS: Final = 7 * DAY_MS
_RESAMPLES: Final = 10_000
_CONCURRENT: Final = 8


@dataclass(frozen=True)
class Affinities:
    """Mean true affinity of each list, one value a user; paired by row."""

    served: Floats
    popular: Floats
    newest: Floats
    oracle: Floats  # the best ten possible

    def report(self, seed: int = 0) -> dict[str, Any]:
        """The means and the paired differences with 95 % intervals, ready for JSON."""
        lists: dict[str, Any] = {name: {"mean": float(values.mean())} for name, values in vars(self).items()}
        paired = {}
        for baseline in ("popular", "newest"):
            difference = self.served - getattr(self, baseline)
            paired[f"served-{baseline}"] = {"mean": float(difference.mean()), "ci": bootstrap(difference, seed)}
        return {"users": len(self.served), **lists, "paired": paired}


def passed(report: dict[str, Any]) -> bool:
    """Whether the served feed beats both baselines with an interval above zero."""
    return all(difference["ci"][0] > 0 for difference in report["paired"].values())


def bootstrap(values: Floats, seed: int = 0) -> list[float]:
    """The 95 % percentile interval of the mean of values (n,), over resampled users."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (_RESAMPLES, len(values)))].mean(axis=1)
    return [float(end) for end in np.percentile(means, [2.5, 97.5])]


def choose_users(world: World, n: int, seed: int) -> Ints:
    """n users without repeats (all, if there are no more), the same for the same seed."""
    return np.random.default_rng([seed, 5]).permutation(len(world.users))[:n]


def most_popular(events: Any, now_ms: int, n: int = LIST) -> list[str]:
    """The pings with the most engagement in the 7 days before `now_ms`, counted once per user, ping and type."""
    recent = (pc.field("received_ms") >= now_ms - _POPULAR_MS) & (pc.field("received_ms") < now_ms)
    watched = (pc.field("event_type") == "view") & (pc.field("watch_time_ratio") >= 0.5)
    engaged = watched | pc.field("event_type").isin(["like", "comment", "share"])
    keys = ["user_id", "ping_id", "event_type"]
    once = events.to_table(columns=keys, filter=recent & engaged).group_by(keys).aggregate([])
    counts = once.group_by("ping_id").aggregate([([], "count_all")])
    return _first(counts.sort_by([("count_all", "descending"), ("ping_id", "ascending")]), events, n)


def newest(events: Any, now_ms: int, n: int = LIST) -> list[str]:
    """The pings announced last before `now_ms`; an edit does not make a ping new."""
    created = (pc.field("event_type") == "ping_created") & (pc.field("received_ms") < now_ms)
    table = events.to_table(columns=["ping_id", "received_ms", "timestamp_ms"], filter=created)
    first = table.group_by("ping_id").aggregate([("received_ms", "min"), ("timestamp_ms", "min")])
    order = [("received_ms_min", "descending"), ("timestamp_ms_min", "descending"), ("ping_id", "ascending")]
    return _first(first.sort_by(order), events, n)


def _first(ranked: Any, events: Any, n: int) -> list[str]:
    """The first n ping ids of a table, without deleted pings."""
    deleted = set(_pings(events, "ping_deleted"))
    return [ping for ping in ranked["ping_id"].to_pylist() if ping not in deleted][:n]


def _pings(events: Any, event_type: str) -> list[str]:
    table = events.to_table(columns=["ping_id"], filter=pc.field("event_type") == event_type)
    found: list[str] = table["ping_id"].unique().to_pylist()
    return found


def open_events(place: str | Path) -> Any:
    """The raw events of the lake at a folder or `s3://bucket/prefix` as a dataset; NotFound if there are none."""
    lake, _ = open_lake(place)
    files = [path for path in lake.list("events") if path.endswith(".parquet")]
    if not files:
        raise NotFound(f"there are no events below {place}")
    return lake.dataset(files, EVENT_SCHEMA)


async def served_pings(services: Services, users: Ints) -> list[list[str]]:
    """The first ten pings of each user's feed."""
    limit = asyncio.Semaphore(_CONCURRENT)

    async def one(user: int) -> list[str]:
        async with limit:
            feed = await services.get_feed(user_id(user))
            return [item["ping_id"] for item in feed["items"]]

    return await asyncio.gather(*(one(int(user)) for user in users))


def affinities(world: World, users: Ints, served: list[list[str]], events: Any, now_ms: int) -> Affinities:
    """The true affinity at `now_ms` of each user's served list and of the lists it is compared with."""
    popular, latest = most_popular(events, now_ms), newest(events, now_ms)
    announced = _known(world, _pings(events, "ping_created"))
    rows = []
    for user, pings in zip(users.tolist(), served, strict=True):
        best = np.sort(world.true_affinity(user, announced, now_ms))[-LIST:].mean()
        rows.append([*(_mean(world, user, some, now_ms) for some in (pings, popular, latest)), best])
    return Affinities(*np.array(rows).T)


def _known(world: World, pings: list[str]) -> Ints:
    """The numbers of the pings of this world."""
    numbers = numbers_of(world, pings)
    return np.asarray(numbers[numbers != UNKNOWN_PING])


def _mean(world: World, user: int, pings: list[str], now_ms: int) -> float:
    """Mean affinity of one list; 0 for a list without pings of this world."""
    known = _known(world, pings)
    return float(world.true_affinity(user, known, now_ms).mean()) if len(known) else 0.0
