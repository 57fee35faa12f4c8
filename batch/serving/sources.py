"""Candidate sources: each maps the pool of servable pings and one user's profile to rows of the pool, best first.

`collaborative.py` is a source too; it needs the day's factors. `merge` combines all sources by quota.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pingfeed.core.features import NO_VALUE, PING, SOURCES, Float32, PingBlock, UInt32

Rows = NDArray[np.intp]
NO_ROWS: Final = np.empty(0, np.intp)
_POINTS: Final = next(index for index, feature in enumerate(PING) if feature.name == "ping_points_7d")
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
"""How many of each source's first rows are kept whatever the ranker says, so that it can learn from its mistakes."""


@dataclass(frozen=True)
class Pool:
    """The servable pings (n rows, as in the snapshot) in several orders."""

    tick: int
    numbers: UInt32
    pings: PingBlock
    created_tick: NDArray[np.int64]
    lists: dict[str, Rows]
    creator_ids: dict[int, str]

    @cached_property
    def creator_numbers(self) -> dict[str, int]:
        """Creator id to number: creators are users too and do not get their own pings."""
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
        facets = self.pings.facets[self.best]  # (n, facets, width)
        values = facets.ravel()
        rows = np.repeat(self.best, facets[:1].size)
        grouped = _grouped(values, rows)
        grouped.pop(NO_VALUE, None)
        return grouped


@dataclass(frozen=True)
class UserProfile:
    """One user as the sources see them; `excluded` marks rows to leave out (seen, own, forbidden).

    `forbidden` marks what the user hid, or blocked the creator of.
    """

    country: str | None
    creators: UInt32
    creator_affinity: Float32
    values: UInt32
    value_affinity: Float32
    followed: Sequence[int]
    engaged: NDArray[np.int64]
    excluded: NDArray[np.bool_]
    forbidden: NDArray[np.bool_]


def followed(pool: Pool, user: UserProfile) -> Rows:
    """Pings of the creators that the user follows, newest first."""
    rows = _interleaved_groups(pool.by_creator, user.followed)
    return rows[np.argsort(-pool.created_tick[rows], kind="stable")]


def engaged_creator(pool: Pool, user: UserProfile) -> Rows:
    """Newest pings of the creators that the user engages with most, one round after another."""
    return _interleaved_groups(pool.by_creator, _liked_most(user.creators, user.creator_affinity))


def topic(pool: Pool, user: UserProfile) -> Rows:
    """Best pings of the topics and other facet values that the user engages with most, one round after another."""
    return _interleaved_groups(pool.by_value, _liked_most(user.values, user.value_affinity))


def trending(pool: Pool, user: UserProfile) -> Rows:
    """Pings that trend in the user's country, then everywhere."""
    return np.concatenate([pool.lists.get(f"trending:{user.country}", NO_ROWS), pool.lists.get("trending", NO_ROWS)])


def evergreen(pool: Pool, _: UserProfile) -> Rows:
    """The top tenth by engagement of all time, best first; the same for every user."""
    return pool.lists.get("evergreen", NO_ROWS)


def fresh(pool: Pool, _: UserProfile) -> Rows:
    """The newest pings, which have no impressions yet; the same for every user."""
    return pool.lists["fresh"]


ALL: Final[Mapping[str, Callable[[Pool, UserProfile], Rows]]] = {
    source.__name__: source for source in (followed, engaged_creator, topic, trending, evergreen, fresh)
}


def merge(found: Mapping[str, Rows], excluded: NDArray[np.bool_]) -> tuple[Rows, NDArray[np.uint8], NDArray[np.bool_]]:
    """At most 400 distinct rows, ascending, with the bits of their sources, and which of them stay in any case."""
    bits = np.zeros(len(excluded), np.uint8)
    kept = np.zeros(len(excluded), bool)
    for name, rows in found.items():
        allowed = rows[~excluded[rows]][: QUOTAS[name]]
        bits[allowed] |= np.uint8(1 << SOURCES.index(name))
        kept[allowed[:FLOOR]] = True
    rows = np.flatnonzero(bits)
    return rows, bits[rows], kept[rows]


def interleaved(groups: Sequence[Rows]) -> Rows:
    """The first of each group, then the second of each, and so on: no group crowds out the others."""
    if not groups:
        return NO_ROWS
    place = np.concatenate([np.arange(len(group)) for group in groups])
    order = np.argsort(place, kind="stable")
    return np.concatenate(groups)[order]


def _interleaved_groups(groups: Mapping[int, Rows], keys: Sequence[int]) -> Rows:
    return interleaved([groups[key] for key in keys if key in groups])


def _liked_most(keys: UInt32, affinity: Float32) -> list[int]:
    """The keys with a positive affinity, strongest first."""
    return [int(keys[i]) for i in np.argsort(-affinity, kind="stable") if affinity[i] > 0]


def _grouped(keys: UInt32, rows: Rows) -> dict[int, Rows]:
    """Rows by key, each group in the order of the rows."""
    if not len(rows):
        return {}
    order = np.argsort(keys, kind="stable")
    distinct, starts = np.unique(keys[order], return_index=True)
    return {int(key): group for key, group in zip(distinct, np.split(rows[order], starts[1:]), strict=True)}
