"""Every command in one table: its name, what it is for, an example, its options, and the function that runs it.

A function's address is imported when the command runs, never before; it takes the options as keyword arguments and
returns the exit code. A command whose package is not installed is hidden.
"""

import argparse
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

Option = tuple[tuple[str, ...], dict[str, Any]]
"""Names and details of an argument, as argparse takes them."""


@dataclass(frozen=True)
class Command:
    """What follows `pingfeed`. `summary` is for the list of commands, `more` continues it in the command's own help."""

    name: str
    address: str
    summary: str
    example: str
    options: tuple[Option, ...] | None = ()
    """None: the address names a function that adds its options to a parser."""
    more: str = ""

    @property
    def meaning(self) -> str:
        """What the command's help says first."""
        return f"{self.summary}. {self.more}".strip()

    @property
    def installed(self) -> bool:
        """Whether this installation has the command's package."""
        return importlib.util.find_spec(self.address.split(".")[0]) is not None

    def function(self) -> Callable[..., int | None]:
        """The function at the address."""
        module, _, name = self.address.partition(":")
        found: Callable[..., int | None] = getattr(importlib.import_module(module), name)
        return found


def _option(*names: str, **details: Any) -> Option:
    if details.get("default") is not None and "help" in details:
        details["help"] += " (default: %(default)s)"
    return names, details


def _flag(name: str, meaning: str, **details: Any) -> Option:
    return (name,), {"action": "store_true", "help": meaning, **details}


def _moment(text: str) -> int:
    from pingfeed.core.clock import to_ms

    try:
        return to_ms(datetime.fromisoformat(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 2026-11-22T12:00:00Z") from error


def _number(kind: Callable[[str], Any], low: float, high: float = float("inf")) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            what = "a whole number" if kind is int else "a number"
            limits = f"of at least {low}" if high == float("inf") else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"{text!r} is not {what} {limits}")
        return value

    return parse


_COUNT: Final = _number(int, 1)
_PORT: Final = _number(int, 0, 65535)
_SECONDS: Final = _number(float, 0)
_POSITIVE: Final = _number(float, 0.001)
_INGEST: Final = "http://127.0.0.1:8000"
_FEED: Final = "http://127.0.0.1:8001"

_AT: Final = _option(
    "--at", metavar="TIME", type=_moment, help="act as at this time (ISO 8601, UTC), to replay the past"
)
_JSON: Final = _flag("--json", "print the result as JSON, and no progress")
_WAIT: Final = _option(
    "--wait", type=_SECONDS, default=0, metavar="SECONDS", help="how long to wait for another run to end"
)
_STEP: Final = (_AT, _JSON, _WAIT)
_HOME: Final = _option(
    "--home", metavar="DIR", help="the folder with world.json (default: PINGFEED_HOME, else var/pingfeed or var/demo)"
)
_LAKE: Final = _option(
    "--lake",
    metavar="PLACE",
    help="the lake, a folder or s3://bucket/prefix, with world.json beside it (default: HOME/lake)",
)
_REMOTE: Final = _flag("--allow-remote", "allow services on other machines than this one")
_WORLD: Final = (
    _option("--users", type=_COUNT, default=1000, metavar="N", help="how many users the world has"),
    _option("--pings", type=_COUNT, default=2000, metavar="N", help="how many pings exist at the start"),
    _option("--days", type=_COUNT, default=14, metavar="N", help="how many days of history to write"),
    _option("--seed", type=_number(int, 0), default=7, metavar="N", help="the same seed makes the same world"),
)

GROUPS: Final[Mapping[str, tuple[Command, ...]]] = {
    "Try it": (
        Command(
            "demo",
            "simulator.commands:demo",
            "Run a small simulated world on this machine: history, training, both services",
            "pingfeed demo\npingfeed demo --users 200 --days 7 --no-live",
            (
                _option("--home", type=Path, metavar="DIR", help="the folder of its state (default: var/demo)"),
                *_WORLD,
                _option("--ingest-port", type=_PORT, default=8000, metavar="PORT", help="the port of ingest"),
                _option("--feed-port", type=_PORT, default=8001, metavar="PORT", help="the port of the feed"),
                _flag("--no-live", "serve without simulated traffic"),
                _flag("--exit-after-ready", "stop everything as soon as it is ready"),
                _flag(
                    "--prepare", "only make the world, in the installation that the settings name, and serve nothing"
                ),
            ),
        ),
        Command(
            "simulate history",
            "simulator.commands:history",
            "Write weeks of a simulated world's events to the lake",
            "pingfeed simulate history --users 1000 --days 14",
            (
                *_WORLD,
                _HOME,
                _option(
                    "--until",
                    type=_moment,
                    metavar="TIME",
                    help="when the history ends (ISO 8601, UTC; default: the last tick before now)",
                ),
                _option("--tick-minutes", type=_COUNT, default=15, metavar="N", help="length of a tick"),
                _LAKE,
            ),
        ),
        Command(
            "simulate live",
            "simulator.commands:live",
            "Play a simulated world over HTTP: its users read feeds and send events",
            "pingfeed simulate live --rate 50 --seconds 60",
            (
                _HOME,
                _option("--rate", type=_POSITIVE, default=20.0, metavar="N", help="the most events per second"),
                _option("--seconds", type=_SECONDS, metavar="N", help="how long (default: until stopped)"),
                _option("--seed", type=_number(int, 0), default=0, metavar="N", help="decides what the users do"),
                _option("--ingest", default=_INGEST, metavar="URL", help="where ingest listens"),
                _option("--feed", default=_FEED, metavar="URL", help="where the feed listens"),
                _REMOTE,
                _JSON,
            ),
        ),
    ),
    "Run it": (
        Command(
            "serve",
            "pingfeed.commands:serve",
            "Run a service: ingest, the feed, or both",
            "pingfeed serve all\npingfeed serve ingest --host 0.0.0.0 --port 8000",
            (
                _option("service", choices=["ingest", "feed", "all"], help="which one to run"),
                _option("--host", default="127.0.0.1", metavar="ADDRESS", help="the address to listen on"),
                _option(
                    "--port",
                    type=_PORT,
                    metavar="PORT",
                    help="the port to listen on (default: 8000 for ingest, 8001 for the feed; all: the feed is one up)",
                ),
            ),
        ),
        Command(
            "schedule",
            "batch.commands:schedule",
            "Run a tick every 15 minutes, and the nightly job at its hour",
            "pingfeed schedule\npingfeed schedule --once --night",
            (
                _flag("--once", "run what is due, tick and nightly job, then stop"),
                _flag("--night", "with --once: run the nightly job at any hour"),
            ),
            more="The nightly job is etl, train, and a tick for every user of the last 30 days.",
        ),
        Command(
            "doctor",
            "pingfeed.commands:doctor",
            "Show what is configured, what answers and what is missing",
            "pingfeed doctor",
            (_flag("--json", 'print {"checks":[{"name","ok","detail"}]}'),),
            more="The exit code is 1 if something fails that the installation needs.",
        ),
        Command(
            "provision",
            "deploy.commands:provision",
            "Create the AWS bucket, tables and stream that the settings name",
            "pingfeed provision --wait 120",
            (
                _option(
                    "--wait", type=_SECONDS, default=60.0, metavar="SECONDS", help="how long AWS may take to answer"
                ),
            ),
            more="What exists already stays as it is.",
        ),
    ),
    "Bring and account for data": (
        Command(
            "import",
            "batch.importers.commands:import_events",
            "Import the history of another system: an event log of Metarank's, or CSV",
            "pingfeed import csv likes.csv --map user_id=user,ping_id=item,timestamp=time,event_type==like --dry-run",
            None,
        ),
        Command(
            "reconcile",
            "batch.accounting.commands:reconcile",
            "Show what was accepted on a day, and where all of it is",
            "pingfeed reconcile --day 2026-11-22",
            None,
        ),
        Command(
            "rejected",
            "batch.accounting.commands:rejected",
            "List rejected events by day and reason, or print them to be repaired",
            "pingfeed rejected list --json",
            None,
        ),
        Command(
            "forget",
            "batch.forget.commands:forget",
            "Remove users: packet and signals at once, the rest with the next nightly job",
            "pingfeed forget user-17\npingfeed forget - < users.txt",
            None,
        ),
    ),
    "Run one step by hand": (
        Command(
            "etl",
            "batch.commands:etl",
            "Read every file that has landed, then bring the day's state up to date",
            "pingfeed etl\npingfeed etl --at 2026-11-22T03:00:00Z",
            _STEP,
        ),
        Command(
            "tick",
            "batch.commands:tick",
            "Run one tick: new events, features, candidates, snapshot, packets",
            "pingfeed tick\npingfeed tick --all --json",
            (
                *_STEP,
                _option(
                    "--all",
                    dest="everyone",
                    action="store_true",
                    help="write packets for every user of the last 30 days",
                ),
            ),
        ),
        Command(
            "train",
            "batch.commands:train",
            "Train a model, and make it live if it passes the gate",
            "pingfeed train --days 14",
            (*_STEP, _option("--days", type=_COUNT, default=30, metavar="N", help="how many days back to learn from")),
            more="While there is too little data it says how much is missing, and the fallback ranker serves.",
        ),
        Command(
            "model list",
            "batch.commands:model_list",
            "List the models: when each was trained, how well it ranks, which one is live",
            "pingfeed model list",
            (_JSON,),
        ),
        Command(
            "model promote",
            "batch.commands:model_promote",
            "Make a model live",
            "pingfeed model promote 1994839-ab0c2b04",
            (_option("model_id", metavar="MODEL", help="its id, as `pingfeed model list` shows it"), _JSON),
        ),
        Command(
            "model rollback",
            "batch.commands:model_rollback",
            "Make the model live that was live before",
            "pingfeed model rollback",
            (_JSON,),
        ),
    ),
    "Measure it": (
        Command(
            "evaluate affinity",
            "simulator.commands:affinity",
            "Compare served feeds with simulated users' true preferences",
            "pingfeed evaluate affinity --users 200",
            (
                _option("--users", type=_COUNT, default=200, metavar="N", help="how many users"),
                _option("--seed", type=_number(int, 0), default=0, metavar="N", help="chooses the users"),
                _option("--feed", default=_FEED, metavar="URL", help="where the feed listens"),
                _REMOTE,
                _LAKE,
                _HOME,
                _JSON,
            ),
            more="The exit code is 1 if the served feed is not better than popular and new pings.",
        ),
        Command(
            "evaluate ranklens",
            "batch.evaluate.commands:ranklens",
            "Measure the model on real lists of films, beside its peers",
            "pingfeed evaluate ranklens events.jsonl.gz --test-from 7000",
            (
                _option("file", type=Path, metavar="FILE", help="Metarank's RankLens events, plain or gzip"),
                _option(
                    "--test-from",
                    type=_COUNT,
                    required=True,
                    metavar="N",
                    help="train on the first N clicked lists in time order, test on the others",
                ),
                _JSON,
            ),
        ),
        Command(
            "skew",
            "batch.commands:skew",
            "Recompute the feature vectors that the feed logged, and count those that differ",
            "pingfeed skew --days 2",
            (
                _AT,
                _JSON,
                _option("--days", type=_COUNT, default=2, metavar="N", help="how many days of logged vectors"),
            ),
            more="The exit code is 1 if one differs.",
        ),
    ),
}
