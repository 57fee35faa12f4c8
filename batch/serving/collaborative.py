"""The day's collaborative factors: fitted once from the 30 days before it, kept in the lake."""

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batch.serving.candidates.collaborative import ENGAGED_POINTS, SCHEMA, Factors, fit, from_table, to_table
from batch.ticks import day_name
from batch.wiring import Batch

_DAYS: Final = 30


def factors_of(batch: Batch, day: int) -> Factors:
    """The factors that serve on this day; the first who asks has them fitted."""
    lake, path = batch.tables.lake, f"features/day={day_name(day)}/collaborative.parquet"
    if path not in lake.list(f"features/day={day_name(day)}"):
        buffer = pa.BufferOutputStream()
        with batch.progress.step("collaborative factors of the day"):
            pq.write_table(to_table(_fit(batch, day)), buffer, compression="zstd")
        lake.write(path, buffer.getvalue().to_pybytes())
    return from_table(lake.dataset([path], SCHEMA).to_table())


def _fit(batch: Batch, day: int) -> Factors:
    pairs = batch.tables.aggregate("user_ping_buckets", day - _DAYS, day - 1)
    totals = pairs.group_by(["user_id", "ping"]).aggregate([("points", "sum")])
    engaged = totals.filter(pc.field("points_sum") >= ENGAGED_POINTS)
    # Sorted, so that the day's factors do not depend on the order in which rows came.
    engaged = engaged.sort_by([("user_id", "ascending"), ("ping", "ascending")])
    people = engaged["user_id"].combine_chunks().dictionary_encode().indices
    return fit(np.asarray(people, np.int64), engaged["ping"].to_numpy())
