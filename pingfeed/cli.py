"""The `pingfeed` command: a table of lazy addresses into each package's `commands.py`.

A command's package may not be installed (a serving image has no batch side): it is then left out of the help. Each
address names a function `configure(parser)` that adds the command's options and sets `run`; nothing else is imported.
"""

import argparse
import importlib
import importlib.util
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pingfeed.core.errors import PingfeedError


@dataclass(frozen=True)
class Command:
    """A word after `pingfeed`, what it is for, and where it lives (`module:function`)."""

    name: str
    help: str
    address: str

    @property
    def installed(self) -> bool:
        """Whether this installation carries the command's package."""
        return importlib.util.find_spec(self.address.split(".")[0]) is not None


COMMANDS: Final = (
    Command("demo", "a small world on this machine: history, training, both services", "simulator.commands:demo"),
    Command("serve", "run a service: ingest, feed, or all", "pingfeed.commands:serve"),
    Command("simulate", "play a world's events over HTTP, or write its history", "simulator.commands:simulate"),
    Command("import", "other people's logs as history: Metarank's, or CSV", "batch.importers.commands:import_events"),
    Command("etl", "the night: every file that landed, then the day's state", "batch.commands:etl"),
    Command("tick", "one tick: new events, features, candidates, snapshot, packets", "batch.commands:tick"),
    Command("train", "train a ranker and put it live if the gate lets it", "batch.commands:train"),
    Command("schedule", "run ticks on the quarter-hour and the night at its hour", "batch.commands:schedule"),
    Command(
        "evaluate", "measure served feeds against true tastes, the model on real lists", "pingfeed.evaluate:evaluate"
    ),
    Command("skew", "recompute logged vectors offline; none may differ", "batch.commands:skew"),
    Command("reconcile", "what was accepted, and where all of it is", "batch.accounting.commands:reconcile"),
    Command("rejected", "list refused events, or send repaired ones again", "batch.accounting.commands:rejected"),
    Command("model", "list, promote or roll back models", "batch.commands:model"),
    Command("forget", "remove users: packet and signals now, the rest at night", "batch.forget.commands:forget"),
    Command("provision", "make the bucket, tables and stream that the settings name", "deploy.commands:provision"),
    Command("doctor", "what is configured, reachable and missing", "pingfeed.commands:doctor"),
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command that is installed."""
    parser = argparse.ArgumentParser(
        prog="pingfeed",
        description="A personalised feed: events in, a learned feed out.",
        epilog="Settings are environment variables (PINGFEED_*); `pingfeed doctor` shows them.",
    )
    words = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        if command.installed:
            words.add_parser(command.name, help=command.help, description=command.help, add_help=False)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; an error of ours is one sentence on standard error and exit code 1."""
    _end_as_others_do()
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen = build_parser().parse_args(given[:1])
    command = next(c for c in COMMANDS if c.name == chosen.command)
    module, _, function = command.address.partition(":")
    parser = argparse.ArgumentParser(prog=f"pingfeed {command.name}", description=command.help)
    try:
        getattr(importlib.import_module(module), function)(parser)
        options = parser.parse_args(given[1:])
        return int(options.run(options) or 0)
    except PingfeedError as error:
        print(f"pingfeed {command.name}: {error.message}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 130


def _end_as_others_do() -> None:
    """SIGTERM ends a container's first process too. The system leaves a PID 1 alone that did not say what to do.

    Programs that finish something first (services, the scheduler) say so themselves, later.
    """
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, lambda number, _frame: os._exit(128 + number))
