"""Measures training-serving skew: recomputes every logged feature vector offline; it must match bit for bit."""

import base64
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch.features import catalogue
from batch.training.training_set import with_features
from batch.wiring import Batch
from pingfeed.core.features import REALTIME, RETRIEVAL, Float32

_COLUMNS: Final = [
    *("user_id", "event_type", "request_id", "known_tick", "received_ms", "snapshot_tick", "packet_tick"),
    *("feature_digest", "country", "language"),
    *("served_pings", "served_sources", "served_scores", "served_realtime", "matrix_pings", "matrix"),
]
_LONG: Final = ("position", "grade", "first_tick", "request_ms", "snapshot_tick", "packet_tick", "source")
_DOUBLE: Final = ("retrieval_score", *(f"realtime_{i}" for i in range(len(REALTIME))))
_ROWS: Final = pa.schema(
    [
        *((name, pa.string()) for name in ("user_id", "request_id", "ping_id", "country", "language")),
        *((name, pa.int64()) for name in _LONG),
        *((name, pa.float64()) for name in _DOUBLE),
    ]
)
"""What the training path takes: one row a scored ping."""


@dataclass(frozen=True)
class Skew:
    """The number of logged rows, of differing rows, and of differences by feature."""

    rows: int
    differing: int
    features: dict[str, int]


def measure(batch: Batch, first_day: int, last_day: int) -> Skew:
    """Compare the logged matrices of these days with the training path's vectors of the same rows.

    Vectors logged under another feature digest cannot be compared and are left out.
    """
    events = batch.tables.clean(first_day, last_day, _COLUMNS)
    same = pc.field("feature_digest") == batch.features.digest
    logged = events.filter((pc.field("event_type") == "feed_served") & pc.field("matrix").is_valid() & same)
    rows, served = _logged_rows(batch, logged)
    if not len(served):
        return Skew(0, 0, {})
    catalog = catalogue.load(batch)
    numbers = catalogue.numbers_for(catalog, "ping", rows["ping_id"].to_pylist())
    made = with_features(batch, catalog, rows.append_column("ping", numbers))
    if made.matrix.shape != served.shape:
        return Skew(len(served), len(served), {"unknown pings": len(served) - len(made.matrix)})
    different = ~((made.matrix == served) | (np.isnan(made.matrix) & np.isnan(served)))
    by_feature = dict(zip(batch.features.names, different.sum(axis=0).tolist(), strict=True))
    return Skew(len(served), int(different.any(axis=1).sum()), {name: n for name, n in by_feature.items() if n})


def _logged_rows(batch: Batch, logged: pa.Table) -> tuple[pa.Table, Float32]:
    """One row a scored ping, as input of the training path, and the vectors that the feed logged.

    Sources, scores and real-time values of served items come from the log; those of rows that were scored but not
    served come from the logged vector itself, since nothing else has them.
    """
    names = batch.features.names
    first_retrieval = names.index(RETRIEVAL[0].name)
    first_realtime = names.index(REALTIME[0].name)
    rows: list[dict[str, Any]] = []
    matrices = [np.empty((0, len(names)), np.float32)]
    for event in logged.to_pylist():
        matrix = np.frombuffer(base64.b64decode(event["matrix"]), "<f4").reshape(len(event["matrix_pings"]), -1)
        matrices.append(matrix)
        served = {ping: i for i, ping in enumerate(event["served_pings"])}
        for ping, vector in zip(event["matrix_pings"], matrix, strict=True):
            values = _from_vector(vector, first_retrieval, first_realtime)
            if ping in served:
                values |= _from_log(event, served[ping])
            rows.append({"ping_id": ping} | _common(event) | values)
    return pa.Table.from_pylist(rows, schema=_ROWS), np.concatenate(matrices)


def _from_vector(vector: Float32, retrieval: int, realtime: int) -> dict[str, Any]:
    bits = vector[retrieval : retrieval + len(RETRIEVAL) - 1]
    known = not np.isnan(bits).any()
    return {
        "source": int(sum(1 << i for i, bit in enumerate(bits) if bit)) if known else 0,
        "retrieval_score": float(vector[retrieval + len(RETRIEVAL) - 1]),
        **{f"realtime_{i}": float(vector[realtime + i]) for i in range(len(REALTIME))},
    }


def _from_log(event: dict[str, Any], at: int) -> dict[str, Any]:
    realtime = event["served_realtime"][at * len(REALTIME) : (at + 1) * len(REALTIME)]
    return {
        "source": event["served_sources"][at],
        "retrieval_score": event["served_scores"][at],
        **{f"realtime_{i}": value for i, value in enumerate(realtime)},
    }


def _common(event: dict[str, Any]) -> dict[str, Any]:
    names = ("user_id", "request_id", "snapshot_tick", "packet_tick", "country", "language")
    copied = {name: event[name] for name in names}
    return copied | {"position": 0, "grade": 0, "first_tick": event["known_tick"], "request_ms": event["received_ms"]}
