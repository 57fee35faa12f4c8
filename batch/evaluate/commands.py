"""`pingfeed evaluate ranklens`."""

from pathlib import Path

from rich.console import Console

from batch.evaluate.ranklens import ATTRIBUTES, FACETS, STRETCH_DAYS, Evaluation
from batch.evaluate.report import show
from batch.importers.commands import watching
from batch.importers.source import Source
from pingfeed.terminal import print_json


def ranklens(*, file: Path, test_from: int, json: bool) -> None:
    """`pingfeed evaluate ranklens`."""
    console = Console()
    with watching(Source(file), quiet=json) as watch:
        told = Evaluation(file, test_from, quiet=json).run(watch)
    if json:
        print_json(told)
        return
    show(told, console)
    console.print(
        f"Trained on the first {test_from:,} clicked lists, of a log stretched to {STRETCH_DAYS} days from its "
        f"own first date; facets {FACETS}; attributes {ATTRIBUTES}. `model_nightly` has features frozen each midnight, "
        "`metarank50` is LambdaMART with the features that Metarank documents for this data, and 50 trees."
    )
