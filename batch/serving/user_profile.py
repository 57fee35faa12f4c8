"""User profiles as of a tick, from a block of many users: affinities, follows, pings engaged with and seen."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batch.features import day_state
from batch.features.collaborative import ENGAGED_POINTS
from batch.serving.sources import NO_ROWS, Pool, Rows, UserProfile
from batch.wiring import Batch
from pingfeed.core.features import UInt32, UInt64, UserBlock, place_name
from pingfeed.core.packet import UserPart

Int64 = NDArray[np.int64]
_NONE = np.empty(0, np.int64)


@dataclass(frozen=True)
class History:
    """The acts of some users as of a tick: ping and creator numbers by user id."""

    seen: Mapping[str, Int64]
    engaged: Mapping[str, Int64]
    hidden: Mapping[str, Int64]
    followed: Mapping[str, Int64]
    blocked: Mapping[str, Int64]
    """Muted creators too."""
    muted_values: Mapping[str, Int64]


def load(batch: Batch, users: Sequence[str], tick: int) -> History:
    """The history of these users as of the tick; what they saw and engaged with reaches back 30 days."""
    wanted = pc.field("user_id").isin(pa.array(users, pa.string()))
    day = batch.ticks.day(tick)
    pairs = batch.tables.aggregate("user_ping_buckets", day - 30, day, tick).filter(wanted)
    totals = pairs.group_by(["user_id", "ping"]).aggregate([("points", "sum"), ("seen", "sum")])
    decided = day_state.current(batch, "user_relations", tick).filter(wanted & (pc.field("active") == 1))
    kinds = pc.field("kind")
    return History(
        # Buckets of an earlier version do not say what was seen.
        seen=_by_user(totals.filter(pc.fill_null(pc.greater(totals["seen_sum"], 0), True)), "ping"),
        engaged=_by_user(totals.filter(pc.field("points_sum") >= ENGAGED_POINTS), "ping"),
        hidden=_by_user(decided.filter(kinds == "hide"), "target"),
        followed=_by_user(decided.filter(kinds == "follow"), "target"),
        blocked=_by_user(decided.filter(kinds.isin(["block", "mute"])), "target"),
        muted_values=_by_user(decided.filter(kinds == "mute_topic"), "target"),
    )


def _by_user(table: pa.Table, column: str) -> dict[str, Int64]:
    found: dict[str, list[int]] = defaultdict(list)
    for user, number in zip(table["user_id"].to_pylist(), table[column].to_pylist(), strict=True):
        found[user].append(number)
    return {user: np.array(sorted(numbers), np.int64) for user, numbers in found.items()}


def profile_of(user_id: str, at: int, users: UserBlock, history: History, pool: Pool) -> UserProfile:
    """One user's profile; `at` is their row in the block."""
    part = user_part(users, at)
    forbidden = _forbidden(user_id, history, pool)
    return UserProfile(
        country=place_name(part.country),
        creators=part.creators,
        creator_affinity=part.creator_affinity,
        values=part.facet_values,
        value_affinity=part.facet_affinity,
        followed=history.followed.get(user_id, _NONE).tolist(),
        engaged=history.engaged.get(user_id, _NONE),
        excluded=forbidden | _seen_or_own(user_id, history, pool),
        forbidden=forbidden,
    )


def user_part(users: UserBlock, at: int) -> UserPart:
    """The part of a packet that describes the block's user `at`."""
    creators = slice(*np.searchsorted(users.creator_keys, _bounds(at)))
    values = slice(*np.searchsorted(users.facet_keys, _bounds(at)))
    return UserPart(
        values=users.values[at],
        country=int(users.country[at]),
        language=int(users.language[at]),
        creators=_numbers(users.creator_keys[creators]),
        creator_affinity=users.creator_values[creators],
        facet_values=_numbers(users.facet_keys[values]),
        facet_affinity=users.facet_values[values],
    )


def _bounds(at: int) -> UInt64:
    return np.array([at << 32, (at + 1) << 32], np.uint64)


def _numbers(keys: UInt64) -> UInt32:
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.uint32)


def _forbidden(user_id: str, history: History, pool: Pool) -> NDArray[np.bool_]:
    """Rows that the user hid, and those of blocked and muted creators and muted topics."""
    out = np.isin(pool.pings.creator, history.blocked.get(user_id, _NONE))
    for value in history.muted_values.get(user_id, _NONE).tolist():
        out[pool.by_value.get(value, NO_ROWS)] = True
    out[_rows(pool, history.hidden.get(user_id, _NONE))] = True
    return out


def _seen_or_own(user_id: str, history: History, pool: Pool) -> NDArray[np.bool_]:
    out: NDArray[np.bool_] = pool.pings.creator == pool.creator_numbers.get(user_id, -1)
    out[_rows(pool, history.seen.get(user_id, _NONE))] = True
    return out


def _rows(pool: Pool, numbers: Int64) -> Rows:
    """Rows of those ping numbers that are servable."""
    if not len(pool.numbers) or not len(numbers):
        return NO_ROWS
    at = np.minimum(np.searchsorted(pool.numbers, numbers), len(pool.numbers) - 1)
    rows: Rows = at[pool.numbers[at] == numbers]
    return rows
