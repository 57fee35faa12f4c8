"""Builds the packets of a tick: candidates from every source, pre-scored by the live ranker, the best 100 kept."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batch.features import collaborative
from batch.features.collaborative import Factors
from batch.features.point_in_time import PointInTime
from batch.lake.quarantine import Quarantine
from batch.serving import sources, user_profile
from batch.serving.sources import Pool, Rows, UserProfile
from batch.ticks import hour_of
from batch.wiring import Batch
from pingfeed.core.errors import Unavailable
from pingfeed.core.features import (
    REALTIME,
    FeatureSet,
    PingBlock,
    UInt8,
    UInt32,
    UserBlock,
    assemble,
    retrieval_quantiles,
    retrieval_values,
)
from pingfeed.core.packet import MAX_CANDIDATES, MAX_EXCLUDED_BYTES, TTL_S, Packet, encode, first_that_fit
from pingfeed.core.ranker import Ranker
from pingfeed.core.snapshot import SnapshotContent

_USERS_AT_ONCE: Final = 200
_COLLABORATIVE_ROWS: Final = 300
_REFILLED: Final = ("followed", "engaged_creator", "trending", "evergreen", "fresh")
"""The sources that the feed's refill has too."""


@dataclass(frozen=True)
class Candidates:
    """One user's candidates before ranking: rows of the pool."""

    rows: Rows
    sources: UInt8
    retrieval: UInt8
    keep: NDArray[np.bool_]
    forbidden: UInt32
    seen: UInt32


def users_to_refresh(batch: Batch, tick: int, since: int | None) -> list[str]:
    """Users with an event that became known after tick `since` and up to `tick`; of 30 days where `since` is None."""
    month_ago = tick - batch.ticks.first_of(30)
    first = month_ago if since is None else max(since, month_ago)
    buckets = batch.tables.aggregate("user_buckets", batch.ticks.day(first), batch.ticks.day(tick), tick)
    active: list[str] = pc.unique(buckets.filter(pc.field("tick") > first)["user_id"]).to_pylist()
    return sorted(active)


def make(
    batch: Batch, content: SnapshotContent, point_in_time: PointInTime, users: Sequence[str], ranker: Ranker
) -> Iterator[Mapping[str, bytes]]:
    """Encoded packets of these users, a few hundred at a time, without users that fail a step."""
    pool = _pool(content)
    factors = collaborative.factors_of(batch, batch.ticks.day(content.tick))
    block = point_in_time.users(pa.array(users, pa.string()), np.full(len(users), content.tick, np.int64))
    history = user_profile.load(batch, users, content.tick)

    def made(part: Sequence[int]) -> Mapping[str, bytes]:
        chunk, rows = [users[at] for at in part], block.row[list(part)]
        profiles = [
            user_profile.profile_of(user, int(at), block, history, pool) for user, at in zip(chunk, rows, strict=True)
        ]
        found = [_candidates(pool, one, factors) for one in profiles]
        ranked = _ranked(batch, pool, replace(block, row=rows), found, ranker, content.tick)
        return {
            user: _encoded(batch.features, pool, block, int(at), best, content.tick)
            for user, at, best in zip(chunk, rows, ranked, strict=True)
        }

    quarantine = Quarantine(batch.tables.lake, batch.clock())
    for start in range(0, len(users), _USERS_AT_ONCE):
        part = range(start, min(start + _USERS_AT_ONCE, len(users)))
        yield from quarantine.each("packets", part, made, name=lambda at: f"user {users[at]}", raises=Unavailable)


def refresh(
    batch: Batch, content: SnapshotContent, point_in_time: PointInTime, users: Sequence[str], ranker: Ranker
) -> list[int]:
    """Build and store the packets of these users, to expire in 35 days; their sizes in bytes.

    The store is opened once, so that its rate limit covers the whole tick.
    """
    packets = make(batch, content, point_in_time, users, ranker)

    async def store() -> list[int]:
        candidates, sizes = batch.open_candidates(), []
        try:
            for made in packets:
                batch.tables.versions.check()
                await candidates.put_many(made, batch.clock() + TTL_S * 1000)
                sizes += [len(packet) for packet in made.values()]
            # Users deleted since the tick began: `pingfeed forget` removed only the packet that existed before.
            for user_id in batch.tables.pending(anew=True).among(users, "tick", content.tick):
                await candidates.delete(user_id)
        finally:
            await candidates.close()
        return sizes

    return asyncio.run(store())


def _pool(content: SnapshotContent) -> Pool:
    return Pool(
        tick=content.tick,
        numbers=content.numbers,
        pings=content.pings,
        created_tick=content.created_tick.astype(np.int64),
        lists={name: np.array(rows, np.intp) for name, rows in content.lists.items()},
        creator_ids=dict(content.creator_ids),
    )


def _candidates(pool: Pool, one: UserProfile, factors: Factors) -> Candidates:
    """One user's candidates from all sources, merged, with the retrieval quantile of every ping that has one."""
    of_factors, best = factors.scores(one.engaged)
    scores = factors.of_pings(of_factors, pool.numbers.astype(np.int64))
    found = {name: source(pool, one) for name, source in sources.ALL.items()}
    known = np.flatnonzero(~np.isnan(scores))
    found["collaborative"] = known[np.argsort(-scores[known], kind="stable")][:_COLLABORATIVE_ROWS]
    rows, bits, keep = sources.merge(found, one.excluded)
    return Candidates(rows, bits, retrieval_quantiles(scores[rows], best), keep, *_excluded(pool, one, found))


def _excluded(pool: Pool, one: UserProfile, found: Mapping[str, Rows]) -> tuple[UInt32, UInt32]:
    """The forbidden and the seen pings that fit into a packet, those first that the feed's refill would offer first.

    Refill takes from the front of several lists, and in the end the whole catalogue, newest first.
    """
    place = np.full(len(pool.numbers), len(pool.numbers))
    for name in _REFILLED:
        place[found[name]] = np.minimum(place[found[name]], np.arange(len(found[name])))
    rows = np.flatnonzero(one.excluded)
    rows = rows[np.lexsort((-pool.created_tick[rows], place[rows]))]
    forbidden, taken = first_that_fit(pool.numbers[rows[one.forbidden[rows]]], MAX_EXCLUDED_BYTES)
    seen, _ = first_that_fit(pool.numbers[rows[~one.forbidden[rows]]], MAX_EXCLUDED_BYTES - taken)
    return forbidden, seen


def _ranked(
    batch: Batch, pool: Pool, users: UserBlock, found: Sequence[Candidates], ranker: Ranker, tick: int
) -> list[Candidates]:
    """Each user's best `MAX_CANDIDATES`, best first; a tick has no real-time values."""
    rows = np.concatenate([one.rows for one in found])
    counts = [len(one.rows) for one in found]
    n = len(rows)
    matrix = assemble(
        batch.features,
        _taken(pool.pings, rows),
        replace(users, row=np.repeat(users.row, counts)),
        hour=np.full(n, hour_of(batch.ticks.start_ms(tick)), np.float32),
        sources=np.concatenate([one.sources for one in found]),
        retrieval_score=retrieval_values(np.concatenate([one.retrieval for one in found])),
        realtime=np.full((n, len(REALTIME)), np.nan, np.float32),
    )
    scores = ranker.predict(matrix)
    return [_best(one, part) for one, part in zip(found, np.split(scores, np.cumsum(counts)[:-1]), strict=True)]


def _best(one: Candidates, scores: NDArray[np.float64]) -> Candidates:
    chosen = np.lexsort((-scores, ~one.keep))[:MAX_CANDIDATES]
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
    # The kept rows come first in `chosen` (they are far fewer than 100), the others by score.
    kept = {name: getattr(one, name)[chosen] for name in ("rows", "sources", "retrieval", "keep")}
    return replace(one, **kept)


def _taken(pings: PingBlock, rows: Rows) -> PingBlock:
    return PingBlock(*(getattr(pings, field)[rows] for field in ("values", "creator", "facets", "country", "language")))


def _encoded(features: FeatureSet, pool: Pool, users: UserBlock, at: int, best: Candidates, tick: int) -> bytes:
    part = user_profile.user_part(users, at)
    numbers = pool.numbers[best.rows]
    packet = Packet(tick, numbers, best.retrieval, best.sources, part, forbidden=best.forbidden, seen=best.seen)
    return encode(packet, features.digest)
