"""`pingfeed evaluate ranklens`."""

import argparse
import sys
from pathlib import Path

import msgspec
from rich.console import Console

from batch.evaluate.ranklens import ATTRIBUTES, FACETS, STRETCH_DAYS, Evaluation
from batch.evaluate.report import show
from batch.importers.commands import watching
from batch.importers.source import Source


def ranklens(parser: argparse.ArgumentParser) -> None:
    """Configure `pingfeed evaluate ranklens`."""
    parser.add_argument("file", type=Path, help="Metarank's RankLens events, plain or gzip")
    parser.add_argument(
        "--test-from",
        type=int,
        required=True,
        metavar="N",
        help="train on the first N clicked lists in time order, test on the others",
    )
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON, and no progress")
    parser.set_defaults(run=_ranklens)


def _ranklens(options: argparse.Namespace) -> int:
    console = Console()
    with watching(Source(options.file), quiet=options.json) as watch:
        told = Evaluation(options.file, options.test_from, quiet=options.json).run(watch)
    if options.json:
        sys.stdout.write(f"{msgspec.json.encode(told).decode()}\n")
        return 0
    show(told, console)
    console.print(
        f"Trained on the first {options.test_from:,} clicked lists, of a log stretched to {STRETCH_DAYS} days from its "
        f"own first date; facets {FACETS}; attributes {ATTRIBUTES}. `model_nightly` has features frozen each midnight, "
        "`metarank50` is LambdaMART with the features that Metarank documents for this data, and 50 trees."
    )
    return 0
