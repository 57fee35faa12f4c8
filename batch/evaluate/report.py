"""What an evaluation found: each ranker's NDCG@10 and paired differences, with 95 % bootstrap intervals over lists."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from batch.training import ndcg

Float64 = NDArray[np.float64]


def report(found: Mapping[str, Float64], pairs: list[tuple[str, str]], seed: int) -> dict[str, Any]:
    """`found` holds NDCG@10 of each list, (lists,), by ranker."""
    return {
        "lists": len(next(iter(found.values()))),
        "rankers": {
            name: {"ndcg_at_10": ndcg.mean(values), "ci": list(ndcg.interval(values, seed))}
            for name, values in found.items()
        },
        "paired": {f"{one}-{other}": _difference(found[one] - found[other], seed) for one, other in pairs},
    }


def _difference(values: Float64, seed: int) -> dict[str, Any]:
    return {"mean": ndcg.mean(values), "ci": list(ndcg.interval(values, seed))}


def show(told: Mapping[str, Any], console: Console) -> None:
    """The report for a person."""
    rankers = Table("ranker", "NDCG@10", "95 % interval", title=f"{told['lists']:,} lists")
    for name, one in told["rankers"].items():
        rankers.add_row(name, f"{one['ndcg_at_10']:.4f}", _interval(one["ci"], "6.4f"))
    pairs = Table("difference on the same lists", "mean", "95 % interval")
    for name, one in told["paired"].items():
        pairs.add_row(name.replace("-", " - "), f"{one['mean']:+.4f}", _interval(one["ci"], "+.4f"))
    console.print(rankers, pairs)


def _interval(ends: list[float], form: str) -> str:
    return f"{ends[0]:{form}} to {ends[1]:{form}}"
