"""What every source draws from: the servable pings of a tick, and what one user is to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pingfeed.core.features import NO_VALUE, PING, Float32, PingBlock, UInt32

Rows = NDArray[np.intp]
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
