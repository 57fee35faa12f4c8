"""Collaborative filtering: pings that users with a similar history engaged with, by a low-pass graph filter.

Shen et al., "How Powerful is Graph Convolution for Recommendation?", CIKM 2021 (GF-CF), its ideal low-pass part: with R
the 0/1 matrix of engaged (user, ping) pairs, scaled by the degrees of both sides, and V its strongest right singular
vectors, a user's scores are `r D^-1/2 V V^T D^1/2`. Fitted once a day on the 30 days before it, so that it never sees
what it is to predict, and kept in the lake.

The feature is a quantile: a ping's place among the 300 best of those that the user has not engaged with.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags
from scipy.sparse.linalg import ArpackError, svds

from batch.lake.tables import parquet_of
from batch.ticks import day_name
from batch.wiring import Batch
from pingfeed.core.features import NO_SCORE, Float32, UInt8, retrieval_quantiles

FACTORS: Final = 64
ENGAGED_POINTS: Final = 5_000
"""Basis points of reward from which a user counts as engaged with a ping: half a watch, or a like."""
SCHEMA: Final = pa.schema([("ping", pa.int64()), ("degree", pa.int64()), ("factors", pa.list_(pa.float32()))])
_DAYS: Final = 30
_BEST: Final = 300
_OVERSAMPLED: Final = 16
_ITERATIONS: Final = 8
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Factors:
    """One day's filter: pings (p,) ascending, how many users engaged with each, and V (p, k)."""

    pings: Int64
    degree: Int64
    vectors: Float32

    def scores(self, engaged: Int64) -> tuple[Float32, Float32]:
        """Scores (p,) for a user who engaged with these ping numbers, NaN where nothing is known of them.

        And the best of them among the other pings: what a quantile compares with.
        """
        at = self._places(engaged)
        liked = at[at >= 0]
        profile = (self.vectors[liked] / self._scale[liked, None]).sum(axis=0)
        scores: Float32 = (self.vectors @ profile) * self._scale
        if not scores.max(initial=0) > 0:
            scores = np.full(len(scores), np.nan, np.float32)
        new = np.delete(scores, liked)
        return scores, np.partition(new, -_BEST)[-_BEST:] if len(new) > _BEST else new

    def of_pings(self, scores: Float32, pings: Int64) -> Float32:
        """(n,) those of these ping numbers, NaN where a ping is unknown to the factors."""
        at = self._places(pings)
        return np.append(scores, np.float32(np.nan))[at]

    def _places(self, pings: Int64) -> Int64:
        """The place of each ping number in `pings`, -1 where it is unknown."""
        at = np.searchsorted(self.pings, pings)
        return np.where(np.append(self.pings, -1)[at] == pings, at, -1)

    @cached_property
    def _scale(self) -> Float32:
        return np.sqrt(np.maximum(self.degree, 1).astype(np.float32))


def factors_of(batch: Batch, day: int) -> Factors:
    """The factors that serve on this day; fitted on first use."""
    lake, folder = batch.tables.lake, f"features/day={day_name(day)}"
    path = f"{folder}/collaborative.parquet"
    found = batch.tables.file(path, SCHEMA)
    if found is None:
        with batch.progress.step("collaborative factors of the day"):
            data = parquet_of(to_table(_fit_day(batch, day)))
        lake.write(path, data)
        found = lake.dataset([path], SCHEMA).to_table()
    return from_table(found)


def quantiles_as_of(batch: Batch, user: pa.ChunkedArray, ping: Int64, tick: Int64) -> UInt8:
    """The stored quantiles of n rows (user, ping, tick), from the factors of each tick's own day."""
    out = np.full(len(ping), NO_SCORE, np.uint8)
    if not len(ping):
        return out
    first, last = batch.ticks.day(int(tick.min())), batch.ticks.day(int(tick.max()))
    names = user.combine_chunks().dictionary_encode()
    history = _Engagements(batch, names.dictionary, first - _DAYS, last)
    probes, row = np.unique(np.stack([tick, np.asarray(names.indices, np.int64)]), axis=1, return_inverse=True)
    rows = np.split(np.argsort(row, kind="stable"), np.cumsum(np.bincount(row))[:-1])
    factors, day = None, -1
    for at, who, mine in zip(*probes.tolist(), rows, strict=True):
        if factors is None or batch.ticks.day(at) != day:
            day = batch.ticks.day(at)
            factors = factors_of(batch, day)
        engaged = history.engaged(who, batch.ticks.first_of(day - _DAYS), at)
        scores, best = factors.scores(engaged)
        out[mine] = retrieval_quantiles(factors.of_pings(scores, ping[mine]), best)
    return out


class _Engagements:
    """The reward points of some users, by ping and tick."""

    def __init__(self, batch: Batch, users: pa.Array, first_day: int, last_day: int) -> None:
        table = batch.tables.aggregate("user_ping_buckets", first_day, last_day)
        table = table.filter((pc.field("points") != 0) & pc.field("user_id").isin(users))
        who = pc.index_in(table["user_id"], users).to_numpy()
        order = np.argsort(who, kind="stable")
        self._starts = np.searchsorted(who[order], np.arange(len(users) + 1))
        self._ping, self._tick, self._points = (table[name].to_numpy()[order] for name in ("ping", "tick", "points"))

    def engaged(self, who: int, first_tick: int, last_tick: int) -> Int64:
        """The pings that the user engaged with in these ticks, both included."""
        own = slice(*self._starts[who : who + 2])
        inside = (self._tick[own] >= first_tick) & (self._tick[own] <= last_tick)
        pings, place = np.unique(self._ping[own][inside], return_inverse=True)
        engaged: Int64 = pings[np.bincount(place, self._points[own][inside], len(pings)) >= ENGAGED_POINTS]
        return engaged


def _fit_day(batch: Batch, day: int) -> Factors:
    pairs = batch.tables.aggregate("user_ping_buckets", day - _DAYS, day - 1)
    totals = pairs.group_by(["user_id", "ping"]).aggregate([("points", "sum")])
    engaged = totals.filter(pc.field("points_sum") >= ENGAGED_POINTS)
    # Sorted, so that the factors do not depend on the order of the rows.
    engaged = engaged.sort_by([("user_id", "ascending"), ("ping", "ascending")])
    users = engaged["user_id"].combine_chunks().dictionary_encode().indices
    return fit(np.asarray(users, np.int64), engaged["ping"].to_numpy())


def fit(user: Int64, ping: Int64) -> Factors:
    """The filter of engaged pairs: user codes and ping numbers, one entry a pair."""
    pings, column = np.unique(ping, return_inverse=True)
    users, row = np.unique(user, return_inverse=True)
    # A filter that keeps more than a quarter of a small graph's frequencies lets nothing new through.
    k = min(FACTORS, len(pings) // 4, len(users) // 4)
    if k < 1:
        return Factors(pings, np.bincount(column, minlength=len(pings)), np.zeros((len(pings), 0), np.float32))
    matrix = csr_matrix((np.ones(len(row), np.float32), (row, column)), (len(users), len(pings)))
    degree = np.asarray(matrix.sum(axis=0)).ravel()
    of_user = np.asarray(matrix.sum(axis=1)).ravel()
    scaled = diags(1 / np.sqrt(of_user)) @ matrix @ diags(1 / np.sqrt(degree))
    return Factors(pings, degree.astype(np.int64), np.ascontiguousarray(_right_vectors(scaled, k).T, np.float32))


def _right_vectors(matrix: csr_matrix, k: int) -> Float32:
    """The right singular vectors (k, columns) of the k largest singular values; the same input gives the same bytes."""
    start = np.full(min(matrix.shape), 1 / np.sqrt(min(matrix.shape)))
    try:
        return cast(Float32, svds(matrix, k=k, v0=start)[2])
    except ArpackError:
        # Many unconnected groups of users share one singular value, on which Arnoldi's iteration may fail. Subspace
        # iteration does not (Halko, Martinsson and Tropp, "Finding structure with randomness", 2011).
        width = min(matrix.shape[1], k + _OVERSAMPLED)
        basis = np.random.default_rng(0).standard_normal((matrix.shape[1], width))
        for _ in range(_ITERATIONS):
            basis, _ = np.linalg.qr(matrix.T @ (matrix @ basis))
        _, _, turned = np.linalg.svd(matrix @ basis, full_matrices=False)
        return cast(Float32, turned[:k] @ basis.T)


def to_table(factors: Factors) -> pa.Table:
    """The factors as a table of the lake."""
    return pa.table([factors.pings, factors.degree, list(factors.vectors)], schema=SCHEMA)


def from_table(table: pa.Table) -> Factors:
    """Inverse of `to_table`."""
    vectors = np.array(table["factors"].to_pylist(), np.float32).reshape(table.num_rows, -1 if table.num_rows else 0)
    return Factors(table["ping"].to_numpy(), table["degree"].to_numpy(), vectors)
