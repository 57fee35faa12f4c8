"""Collaborative filtering: pings that users with a similar history engaged with, by a low-pass graph filter.

Shen et al., "How Powerful is Graph Convolution for Recommendation?", CIKM 2021 (GF-CF), its ideal low-pass part: with R
the 0/1 matrix of engaged (user, ping) pairs, scaled by the degrees of both sides, and V its strongest right singular
vectors, a user's scores are `r D^-1/2 V V^T D^1/2`. Fitted once a day on the 30 days before it, so that it never sees
what it is to predict, and kept in the lake.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags
from scipy.sparse.linalg import svds

from batch.lake.tables import parquet_of
from batch.ticks import day_name
from batch.wiring import Batch
from pingfeed.core.features import Float32

FACTORS: Final = 64
ENGAGED_POINTS: Final = 5_000
"""Basis points of reward from which a user counts as engaged with a ping: half a watch, or a like."""
SCHEMA: Final = pa.schema([("ping", pa.int64()), ("degree", pa.int64()), ("factors", pa.list_(pa.float32()))])
_DAYS: Final = 30
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Factors:
    """One day's filter: pings (p,) ascending, how many users engaged with each, and V (p, k)."""

    pings: Int64
    degree: Int64
    vectors: Float32

    def scores(self, liked: Int64) -> Float32:
        """Scores (p,) for a user who engaged with these pings (positions in `pings`), 1 for their best."""
        scale = np.sqrt(np.maximum(self.degree, 1).astype(np.float32))
        profile = (self.vectors[liked] / scale[liked, None]).sum(axis=0)
        raw = (self.vectors @ profile) * scale
        top = raw.max(initial=0)
        return (raw / top if top > 0 else np.full(len(raw), np.nan)).astype(np.float32)


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
    # A fixed start vector makes the factors deterministic.
    start = np.full(min(scaled.shape), 1 / np.sqrt(min(scaled.shape)))
    _, _, right = svds(scaled, k=k, v0=start)
    return Factors(pings, degree.astype(np.int64), np.ascontiguousarray(right.T, np.float32))


def to_table(factors: Factors) -> pa.Table:
    """The factors as a table of the lake."""
    return pa.table([factors.pings, factors.degree, list(factors.vectors)], schema=SCHEMA)


def from_table(table: pa.Table) -> Factors:
    """Inverse of `to_table`."""
    vectors = np.array(table["factors"].to_pylist(), np.float32).reshape(table.num_rows, -1 if table.num_rows else 0)
    return Factors(table["ping"].to_numpy(), table["degree"].to_numpy(), vectors)
