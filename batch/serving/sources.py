"""Where a user's candidates come from, and how they are merged: one function per source.

A source returns rows of the pool, best first. At most 400 rows per user remain after the quotas.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pingfeed.core.features import NO_VALUE, PING, SOURCES, Float32, PingBlock, UInt32

Rows = NDArray[np.intp]
_NONE = np.empty(0, np.intp)
_POINTS = next(index for index, feature in enumerate(PING) if feature.name == "ping_points_7d")


@dataclass(frozen=True)
class Pool:
    """The servable pings (n rows, as in the snapshot) and their orders."""

    tick: int
    numbers: UInt32
    pings: PingBlock
    created_tick: NDArray[np.int64]
    lists: dict[str, Rows]
    creator_ids: dict[int, str]

    @cached_property
    def creator_numbers(self) -> dict[str, int]:
        """Creator id to number: a creator is a user too, and is not shown their own pings."""
        return {name: number for number, name in self.creator_ids.items()}

    @cached_property
    def best(self) -> Rows:
        """All rows by smoothed reward of 7 days, best first."""
        return np.argsort(-self.pings.values[:, _POINTS], kind="stable")

    @cached_property
    def by_creator(self) -> dict[int, Rows]:
        """Each creator's rows, newest first."""
        newest = np.lexsort((-self.numbers.astype(np.int64), -self.created_tick))
        return _grouped(self.pings.creator[newest], newest)

    @cached_property
    def by_value(self) -> dict[int, Rows]:
        """Each facet value's rows, best first."""
        values = self.pings.facets.reshape(len(self.numbers), -1)[self.best]
        rows = np.repeat(self.best, values.shape[1])
        grouped = _grouped(values.ravel(), rows)
        grouped.pop(NO_VALUE, None)
        return grouped


@dataclass(frozen=True)
class UserProfile:
    """One user as the sources see them; `excluded` marks rows that must not be offered (seen, hidden, blocked, own)."""

    country: str | None
    creators: UInt32
    creator_affinity: Float32
    values: UInt32
    value_affinity: Float32
    followed: Sequence[int]
    liked: Rows
    excluded: NDArray[np.bool_]


def _grouped(keys: UInt32, rows: Rows) -> dict[int, Rows]:
    """Rows by key, each group in the order in which the rows came."""
    order = np.argsort(keys, kind="stable")
    distinct, starts = np.unique(keys[order], return_index=True)
    return {int(key): group for key, group in zip(distinct, np.split(rows[order], starts[1:]), strict=True)}


def interleaved(groups: Sequence[Rows]) -> Rows:
    """The first of each group, then the second of each, and so on: no group crowds out the others."""
    if not groups:
        return np.empty(0, np.intp)
    place = np.concatenate([np.arange(len(group)) for group in groups])
    order = np.argsort(place, kind="stable")
    return np.concatenate(groups)[order]


def followed(pool: Pool, user: UserProfile) -> Rows:
    """Newest pings of the creators that the user follows, newest first."""
    groups = [pool.by_creator[creator] for creator in user.followed if creator in pool.by_creator]
    rows = interleaved(groups)
    return rows[np.argsort(-pool.created_tick[rows], kind="stable")]


def engaged_creator(pool: Pool, user: UserProfile) -> Rows:
    """Newest pings of the creators whom the user engages with, in rounds by falling affinity."""
    order = np.argsort(-user.creator_affinity, kind="stable")
    liked = [int(user.creators[i]) for i in order if user.creator_affinity[i] > 0]
    return interleaved([pool.by_creator[creator] for creator in liked if creator in pool.by_creator])


def topic(pool: Pool, user: UserProfile) -> Rows:
    """Best pings of the topics (and other facets) that the user engages with, in rounds by falling affinity."""
    order = np.argsort(-user.value_affinity, kind="stable")
    liked = [int(user.values[i]) for i in order if user.value_affinity[i] > 0]
    return interleaved([pool.by_value[value] for value in liked if value in pool.by_value])


def trending(pool: Pool, user: UserProfile) -> Rows:
    """What is trending in the user's country, then everywhere."""
    here = pool.lists.get(f"trending:{user.country}", _NONE)
    return np.concatenate([here, pool.lists.get("trending", _NONE)])


def evergreen(pool: Pool, user: UserProfile) -> Rows:  # noqa: ARG001 - every source has one signature
    """The top 10 % by engagement of all time, the same for every user."""
    return pool.lists.get("evergreen", _NONE)


def fresh(pool: Pool, user: UserProfile) -> Rows:  # noqa: ARG001 - every source has one signature
    """The newest pings, so that new ones get impressions, the same for every user."""
    return pool.lists["fresh"]


Source = Callable[[Pool, UserProfile], Rows]
SOURCE_FUNCTIONS: Final[Mapping[str, Source]] = {
    "followed": followed,
    "engaged_creator": engaged_creator,
    "topic": topic,
    "trending": trending,
    "evergreen": evergreen,
    "fresh": fresh,
}
QUOTAS: Final[Mapping[str, int]] = {
    "followed": 60,
    "engaged_creator": 60,
    "collaborative": 100,
    "topic": 80,
    "trending": 40,
    "evergreen": 30,
    "fresh": 40,
}
FLOOR: Final = 4
"""Each source's first rows are kept whatever their score, so that the ranker can learn that it was wrong."""


def merge(offers: Mapping[str, Rows], excluded: NDArray[np.bool_]) -> tuple[Rows, NDArray[np.uint8], NDArray[np.bool_]]:
    """Distinct rows ascending, their source bits, and which of them stay in any case."""
    bits = np.zeros(len(excluded), np.uint8)
    kept = np.zeros(len(excluded), bool)
    for name, rows in offers.items():
        allowed = rows[~excluded[rows]][: QUOTAS[name]]
        bits[allowed] |= np.uint8(1 << SOURCES.index(name))
        kept[allowed[:FLOOR]] = True
    rows = np.flatnonzero(bits)
    return rows, bits[rows], kept[rows]
