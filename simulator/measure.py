"""Feed quality: the mean true affinity of the first ten pings, against two feeds that are not personalised.

The rivals are the ten most popular pings (most users' likes, comments, shares and views of at least half, over the
last 7 days of raw events) and the ten newest. The same rule holds for every list: nothing is left out for having been
seen. A feed leaves it out all the same, which makes the comparison harder for the feed and never for its rivals; a
second evaluation of the same users within the hour is served what the first one left. Pings that this world did not
make have no truth and do not count in any list.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow.compute as pc

from pingfeed.core.clock import DAY_MS
from simulator.behave import UNKNOWN_PING, numbers_of
from simulator.people import Floats, Ints
from simulator.remote import Services
from simulator.world import World, user_id

LIST: Final = 10
_POPULAR_MS: Final = 7 * DAY_MS
_RESAMPLES: Final = 10_000
_AT_ONCE: Final = 8


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Affinities:
    """Mean true affinity of each list, one value a user; paired by row."""

    served: Floats
    popular: Floats
    newest: Floats
    oracle: Floats  # the best ten there are

    def report(self, seed: int = 0) -> dict[str, Any]:
        """The means and the paired differences, ready for JSON."""
        lists: dict[str, Any] = {name: {"mean": float(values.mean())} for name, values in vars(self).items()}
        paired = {}
        for rival in ("popular", "newest"):
            interval = bootstrap(self.served - getattr(self, rival), seed)
            paired[f"served-{rival}"] = {"mean": interval.mean, "ci": [interval.low, interval.high]}
        return {"users": len(self.served), **lists, "paired": paired}


def passed(report: dict[str, Any]) -> bool:
    """Whether what is served beats both rivals with an interval above zero."""
    return all(difference["ci"][0] > 0 for difference in report["paired"].values())


def bootstrap(values: Floats, seed: int = 0) -> Interval:
    """The mean of values (n,) with a 95 % percentile interval over resampled users."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (_RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def choose_users(world: World, n: int, seed: int) -> Ints:
    """n users without repeats (everybody, if there are no more), the same for the same seed."""
    return np.random.default_rng([seed, 5]).permutation(len(world.users))[:n]


def most_popular(events: Any, now_ms: int, n: int = LIST) -> list[str]:
    """The pings with the most engagement in the 7 days before `now_ms`: one for each user, ping and type."""
    recent = (pc.field("received_ms") >= now_ms - _POPULAR_MS) & (pc.field("received_ms") < now_ms)
    watched = (pc.field("event_type") == "view") & (pc.field("watch_time_ratio") >= 0.5)
    engaged = watched | pc.field("event_type").isin(["like", "comment", "share"])
    keys = ["user_id", "ping_id", "event_type"]
    once = events.to_table(columns=keys, filter=recent & engaged).group_by(keys).aggregate([])
    counts = once.group_by("ping_id").aggregate([([], "count_all")])
    ranked = counts.sort_by([("count_all", "descending"), ("ping_id", "ascending")])
    return _without(ranked["ping_id"].to_pylist(), _deleted(events))[:n]


def newest(events: Any, now_ms: int, n: int = LIST) -> list[str]:
    """The pings that were announced last before `now_ms`; an edit does not make a ping new."""
    created = (pc.field("event_type") == "ping_created") & (pc.field("received_ms") < now_ms)
    table = events.to_table(columns=["ping_id", "received_ms", "timestamp_ms"], filter=created)
    first = table.group_by("ping_id").aggregate([("received_ms", "min"), ("timestamp_ms", "min")])
    order = [("received_ms_min", "descending"), ("timestamp_ms_min", "descending"), ("ping_id", "ascending")]
    return _without(first.sort_by(order)["ping_id"].to_pylist(), _deleted(events))[:n]


def _deleted(events: Any) -> set[str]:
    table = events.to_table(columns=["ping_id"], filter=pc.field("event_type") == "ping_deleted")
    return set(table["ping_id"].to_pylist())


def _without(pings: Sequence[str], left_out: set[str]) -> list[str]:
    return [ping for ping in pings if ping not in left_out]


async def served_pings(services: Services, users: Ints) -> list[list[str]]:
    """The first ten that the feed serves to each user now."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(user: int) -> list[str]:
        async with gate:
            return (await services.get_feed(user_id(user), LIST)).pings

    return await asyncio.gather(*(one(int(user)) for user in users))


def affinities(world: World, users: Ints, served: list[list[str]], events: Any, now_ms: int) -> Affinities:
    """The true affinity at `now_ms` of what each user was served and of its rivals."""
    popular, fresh = most_popular(events, now_ms), newest(events, now_ms)
    everything = _announced(world, events)
    rows = []
    for user, pings in zip(users.tolist(), served, strict=True):
        best = np.sort(world.true_affinity(user, everything, now_ms))[-LIST:].mean()
        rows.append([*(_mean(world, user, some, now_ms) for some in (pings, popular, fresh)), best])
    return Affinities(*np.array(rows).T)


def _announced(world: World, events: Any) -> Ints:
    """Numbers of the pings that the services can know of."""
    ids = events.to_table(columns=["ping_id"], filter=pc.field("event_type") == "ping_created")["ping_id"].unique()
    numbers = numbers_of(world, ids.to_pylist())
    return np.asarray(numbers[numbers != UNKNOWN_PING])


def _mean(world: World, user: int, pings: list[str], now_ms: int) -> float:
    """Mean affinity of one list; 0 for a list without pings of this world."""
    numbers = numbers_of(world, pings)
    known = numbers[numbers != UNKNOWN_PING]
    return float(world.true_affinity(user, known, now_ms).mean()) if len(known) else 0.0
