"""`pingfeed evaluate`: each measurement is a word of its own, addressed lazily in the package that makes it."""

import argparse
import importlib
from typing import Final

from pingfeed.cli import Command

EVALUATIONS: Final = (
    Command("affinity", "what is served against simulated users' true tastes", "simulator.commands:affinity"),
    Command("ranklens", "the model on real lists of films, beside its peers", "batch.evaluate.commands:ranklens"),
)


def evaluate(parser: argparse.ArgumentParser) -> None:
    """Configure every evaluation that is installed."""
    words = parser.add_subparsers(metavar="|".join(one.name for one in EVALUATIONS), required=True)
    for one in EVALUATIONS:
        if one.installed:
            module, _, function = one.address.partition(":")
            getattr(importlib.import_module(module), function)(words.add_parser(one.name, help=one.help))
