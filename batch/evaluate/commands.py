"""`pingfeed evaluate ranklens`."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batch.evaluate.ranklens import ATTRIBUTES, FACETS, STRETCH_DAYS, Evaluation
from pingfeed.core.words import counted
from pingfeed.terminal import print_json, print_table


def ranklens(*, file: Path, test_from: int, json: bool) -> None:
    """`pingfeed evaluate ranklens`."""
    report = Evaluation(file, test_from, quiet=json).run()
    if json:
        print_json(report)
        return
    _show(report)
    sys.stdout.write(
        f"Trained on the first {test_from:,} clicked lists, of a log stretched to {STRETCH_DAYS} days from its "
        f"own first date; facets {FACETS}; attributes {ATTRIBUTES}. `model_nightly` has features frozen each midnight, "
        "`metarank50` is LambdaMART with the features that Metarank documents for this data, and 50 trees.\n"
    )


def _show(report: Mapping[str, Any]) -> None:
    rankers = [
        (name, f"{one['ndcg_at_10']:.4f}", "{:6.4f} to {:6.4f}".format(*one["ci"]))
        for name, one in report["rankers"].items()
    ]
    print_table(("ranker", "NDCG@10", "95 % interval"), rankers, title=counted(report["lists"], "list"))
    pairs = [
        (name.replace("-", " - "), f"{one['mean']:+.4f}", "{:+.4f} to {:+.4f}".format(*one["ci"]))
        for name, one in report["paired"].items()
    ]
    print_table(("difference on the same lists", "mean", "95 % interval"), pairs)
