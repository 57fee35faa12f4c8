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
    """One command. `summary` is shown in the list of commands; the command's own help adds `more`."""

    name: str
    address: str
    summary: str
    example: str
    options: tuple[Option, ...] = ()
    more: str = ""

    @property
    def meaning(self) -> str:
        """The first paragraph of the command's help."""
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


def _past(text: str) -> int:
    """A time that has come: a run of the future would stamp events as known then, and nothing would count before."""
    from pingfeed.core.clock import system_clock, to_iso

    ms, now_ms = _moment(text), system_clock()
    if ms > now_ms:
        raise argparse.ArgumentTypeError(f"{text!r} is ahead of the clock, which says {to_iso(now_ms)}")
    if ms < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is before 1970")
    return ms


def _worker(text: str) -> Any:
    """One of the processes that `serve --workers` starts."""
    from pingfeed.web.workers import Worker

    return Worker.parse(text)


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


def _count(name: str, default: int | None, meaning: str, low: int = 1, **more: Any) -> Option:
    return _option(name, type=_number(int, low), default=default, metavar="N", help=meaning, **more)


def _port(name: str, default: int | None, meaning: str) -> Option:
    return _option(name, type=_number(int, 0, 65535), default=default, metavar="PORT", help=meaning)


def _rate(name: str, default: float, meaning: str) -> Option:
    return _option(name, type=_number(float, 0.001), default=default, metavar="N", help=meaning)


def _seconds(name: str, default: float | None, meaning: str) -> Option:
    return _option(name, type=_number(float, 0), default=default, metavar="SECONDS", help=meaning)


def _days(default: str) -> tuple[Option, Option]:
    return (
        _option("--day", metavar="YYYY-MM-DD", help=f"UTC day of arrival (default: {default})"),
        _option("--days", type=_number(int, 1, 400), metavar="N", help="the N days up to that day"),
    )


def _time(name: str, meaning: str) -> Option:
    return _option(name, type=_moment, metavar="TIME", help=f"{meaning} (ISO 8601, UTC)")


def _several(name: str, metavar: str, meaning: str, **details: Any) -> Option:
    return (name,), {"action": "append", "default": [], "metavar": metavar, "help": meaning, **details}


def _command(entry: str, summary: str, example: str, *options: Option, more: str = "") -> Command:
    """`entry` is `name = module:function`, as in the entry points of a package."""
    name, _, address = entry.partition(" = ")
    return Command(name, address, summary, example, options, more)


_JSON: Final = _flag("--json", "print the result as JSON, and no progress")
_AT: Final = _option("--at", type=_past, metavar="TIME", help="act as at this time of the past (ISO 8601, UTC)")
_STEP: Final = (_AT, _JSON, _seconds("--wait", 0, "how long to wait for another run to end"))
_HOME: Final = _option(
    "--home", metavar="DIR", help="folder with world.json (default: PINGFEED_HOME, the last demo's, var/pingfeed)"
)
_LAKE: Final = _option("--lake", metavar="PLACE", help="a folder or s3://bucket/prefix (default: HOME/lake)")
_INGEST: Final = _option("--ingest", default="http://127.0.0.1:8000", metavar="URL", help="where ingest listens")
_FEED: Final = _option("--feed", default="http://127.0.0.1:8001", metavar="URL", help="where the feed listens")
_REMOTE: Final = _flag("--allow-remote", "allow services on other machines than this one")
_FILE: Final = _option("file", type=Path, metavar="FILE", help="the log, plain or gzip")
_IMPORT: Final = (
    _flag("--dry-run", "write nothing; show what would be imported and rejected"),
    _flag("--allow-rejected", "import the rest if over 10 %% of the rows are rejected"),
    _AT,
    _JSON,
)
_WORLD: Final = (
    _count("--users", 1000, "how many users the world has"),
    _count("--pings", 2000, "how many pings exist at the start"),
    _count("--days", 14, "how many days of history to write"),
    _count("--seed", 7, "the same seed makes the same world", low=0),
)

GROUPS: Final[Mapping[str, tuple[Command, ...]]] = {
    "Try it": (
        _command(
            "demo = simulator.commands:demo",
            "Run a small simulated world on this machine: history, training, both services",
            "pingfeed demo\npingfeed demo --users 200 --days 7 --no-live",
            _option("--home", type=Path, metavar="DIR", help="the folder of its state (default: var/demo)"),
            *_WORLD,
            _port("--ingest-port", 8000, "the port of ingest"),
            _port("--feed-port", 8001, "the port of the feed"),
            _flag("--no-live", "serve without simulated traffic"),
            _flag("--exit-after-ready", "stop everything as soon as it is ready"),
            _flag("--prepare", "only make the world, where the settings say, and serve nothing"),
        ),
        _command(
            "simulate history = simulator.commands:history",
            "Write weeks of a simulated world's events to the lake",
            "pingfeed simulate history --users 1000 --days 14",
            *_WORLD,
            _HOME,
            _time("--until", "when the history ends; by default the last tick before now"),
            _count("--tick-minutes", 15, "length of a tick"),
            _LAKE,
        ),
        _command(
            "simulate live = simulator.commands:live",
            "Play a simulated world over HTTP: its users read feeds and send events",
            "pingfeed simulate live --rate 50 --seconds 60",
            _HOME,
            _rate("--rate", 20.0, "the most events per second"),
            _seconds("--seconds", None, "how long to play (default: until stopped)"),
            _count("--seed", 0, "decides what the users do", low=0),
            _INGEST,
            _FEED,
            _REMOTE,
            _JSON,
        ),
    ),
    "Run it": (
        _command(
            "serve = pingfeed.commands:serve",
            "Run a service: ingest, the feed, or both",
            "pingfeed serve all\npingfeed serve feed --workers 2\npingfeed serve ingest --host 0.0.0.0 --port 8000",
            _option("service", choices=["ingest", "feed", "all"], help="which one to run"),
            _option("--host", default="127.0.0.1", metavar="ADDRESS", help="the address to listen on"),
            _port("--port", None, "the port (default: 8000 for ingest, 8001 for the feed)"),
            _count("--workers", 1, "how many processes serve the feed's port"),
            _option("--worker", type=_worker, help=argparse.SUPPRESS),
            more="With `all`, --port is that of ingest, and the feed takes the next one. A worker that dies is started "
            "again; /metrics sums up all of them, and PINGFEED_RATE_LIMIT holds for each of them.",
        ),
        _command(
            "schedule = batch.commands:schedule",
            "Run a tick every 15 minutes, and the nightly job at its hour",
            "pingfeed schedule\npingfeed schedule --once --night",
            _flag("--once", "run what is due, tick and nightly job, then stop"),
            _flag("--night", "with --once: run the nightly job at any hour"),
            more="The nightly job is etl, train, and a tick for every user of the last 30 days.",
        ),
        _command(
            "doctor = pingfeed.commands:doctor",
            "Show what is configured, what answers and what is missing",
            "pingfeed doctor",
            _flag("--json", 'print {"checks":[{"name","ok","detail"}]}'),
            more="The exit code is 1 if something fails that the installation needs.",
        ),
        _command(
            "provision = deploy.provision:command",
            "Create the AWS bucket, tables and stream that the settings name",
            "pingfeed provision --wait 120",
            _seconds("--wait", 60.0, "how long AWS may take to answer"),
            more="What exists stays as it is; what it lacks is added, and a thing of another shape is an error.",
        ),
    ),
    "Bring and account for data": (
        _command(
            "import csv = batch.importers.commands:import_csv",
            "Import an interaction log in CSV, with one event per line",
            "pingfeed import csv likes.csv --map user_id=user,ping_id=item,timestamp=time,event_type==like --dry-run",
            _FILE,
            _several(
                "--map",
                "FIELD=COLUMN,...",
                "the column of each event field; FIELD==VALUE for the same value in every row; attributes.NAME and "
                "facets.NAME for a ping's named numbers and lists",
                dest="mapping",
                required=True,
            ),
            _several(
                "--events", "WORD=TYPE,...", "WORD in the event_type column means TYPE, or `skip` to omit the row"
            ),
            _several("--default", "COLUMN=VALUE,...", "the value of an empty cell"),
            _option(
                "--rating-like",
                type=float,
                metavar="N",
                help="ratings (--map rating=COLUMN) from N up are likes, lower ones impressions",
            ),
            _flag("--allow-ratings", "import a watch_time_ratio that looks like ratings as it is"),
            _several(
                "--time-format",
                "FORMAT",
                "how times are written, as for strptime: '%%m/%%d/%%Y %%H:%%M'; may be given several times. ISO 8601, "
                "epoch seconds, milliseconds, microseconds and Excel serial days need none",
            ),
            _option("--delimiter", help="one character, or `tab` (default: detected by the header)"),
            _option("--separator", default="|", help="separates topics and other lists that are not JSON"),
            _option("--header", metavar="A,B,...", help="the columns' names, if the first line is no header"),
            _option("--encoding", help="such as cp1252 (default: UTF-16 if the file begins so, else UTF-8)"),
            _flag("--escape-ids", "encode ids with characters that ids cannot have, instead of rejecting them"),
            _flag("--keep-dates", "events arrive at the log's own times (the default)"),
            _flag("--end-now", "move all times so that the last is at the last tick before now"),
            *_IMPORT,
        ),
        _command(
            "import metarank = batch.importers.commands:import_metarank",
            "Import an event log of Metarank's, in JSON lines",
            "pingfeed import metarank events.jsonl.gz --stretch 14d --dry-run",
            _FILE,
            _option("--stretch", metavar="LENGTH", help="spread the log evenly over this length: 14d, 36h, 90m"),
            _several("--events", "WORD=TYPE,...", "interactions of type WORD become TYPE events (default: click=like)"),
            _option("--topics", default="genres", help="the item's field with its topics"),
            _option("--creator", default="director", help="the item's field with its creator"),
            _flag("--keep-dates", "events arrive at the log's own times"),
            _flag("--end-now", "move all times so that the last is at the last tick before now (the default)"),
            *_IMPORT,
        ),
        _command(
            "reconcile = batch.ops.commands:reconcile",
            "Show what was accepted on a day, and where all of it is",
            "pingfeed reconcile --day 2026-11-22",
            *_days("today"),
            _flag("--json", "print JSON; a list with --days"),
            more="The exit code is 1 if something is missing.",
        ),
        _command(
            "rejected list = batch.ops.commands:list_rejected",
            "List rejected events by day and reason, or print them to be repaired and sent again",
            "pingfeed rejected list --json --code out_of_range > bodies.jsonl",
            *_days("all that are kept"),
            _option("--code", help="only this reason, such as out_of_range; --json prints forbidden events only so"),
            _flag("--json", "print request bodies that send them again, one a line"),
        ),
        _command(
            "forget = batch.ops.commands:forget",
            "Remove users: packet and signals at once, the rest with the next nightly job",
            "pingfeed forget user-17\npingfeed forget - < users.txt",
            _option("users", nargs="+", metavar="USER", help="user ids; - reads them from standard input"),
            _JSON,
            more="`pingfeed etl` removes their events, aggregates and training rows from the lake now. Rejected events "
            "are not searched: they expire within PINGFEED_REJECTED_DAYS. Totals of pings and creators stay, and so do "
            "pings that a user published: delete those with `ping_deleted` events.",
        ),
        _command(
            "backup = batch.ops.backup:backup_command",
            "Copy what this machine holds (lake, models, spools, stores) while everything runs",
            "pingfeed backup /mnt/backups/pingfeed --keep 14\npingfeed backup s3://my-backups/pingfeed",
            _option("to", metavar="TO", help="a folder or s3://bucket/prefix, for this installation's backups only"),
            _count("--keep", None, "then remove all but the newest N (default: keep all)"),
            _seconds("--wait", 3600, "how long to wait for a running tick or nightly job"),
            more="It has everything that was acknowledged before it began. Only changes since the last one are copied. "
            "Users who are forgotten later stay in it until it is removed.",
        ),
        _command(
            "restore = batch.ops.backup:restore_command",
            "Bring a backup back, after checking every byte of it",
            "pingfeed restore /mnt/backups/pingfeed\npingfeed restore s3://my-backups/pingfeed --backup 20261128T03",
            _option("source", metavar="FROM", help="where `pingfeed backup` stored it"),
            _option(
                "--backup", default="", metavar="NAME", help="the newest whose name begins so (default: the newest)"
            ),
            _flag("--force", "move data that is there aside, to `*.replaced-*`"),
            _flag("--dry-run", "check the backup and change nothing"),
            more="Stop the services and the scheduler first.",
        ),
        _command(
            "signals rebuild = batch.ops.commands:rebuild_signals",
            "Bring users' follows, blocks, hides, mutes and profiles from the lake back into the signals",
            "pingfeed signals rebuild",
            _JSON,
            more="They are merged by when each act happened and never overwrite a newer one: safe at any time. The "
            "next tick does it by itself for a store that began anew, and an import at its end.",
        ),
        _command(
            "export = batch.ops.commands:export",
            "Print everything about a user as JSON lines: events, relations, profile",
            "pingfeed export user-17 > user-17.jsonl",
            _option("user", metavar="USER", help="the user's id"),
            more="Events that no run has read yet are included, rejected ones are not. The exit code is 1 if the user "
            "is unknown or a file could not be read.",
        ),
    ),
    "Run one step by hand": (
        _command(
            "etl = batch.commands:etl",
            "Read every file that has landed, then bring the day's state up to date",
            "pingfeed etl\npingfeed etl --at 2026-11-22T03:00:00Z",
            *_STEP,
        ),
        _command(
            "tick = batch.commands:tick",
            "Run one tick: new events, features, candidates, snapshot, packets",
            "pingfeed tick\npingfeed tick --all --json",
            *_STEP,
            _flag("--all", "write packets for every user of the last 30 days", dest="everyone"),
        ),
        _command(
            "train = batch.commands:train",
            "Train a model, and make it live if it passes the gate",
            "pingfeed train --days 14",
            *_STEP,
            _count("--days", 30, "how many days back to learn from"),
            more="While there is too little data it says how much is missing, and the fallback ranker serves.",
        ),
        _command(
            "model list = batch.commands:model_list",
            "List the models: when each was trained, how well it ranks, which one is live",
            "pingfeed model list",
            _JSON,
        ),
        _command(
            "model promote = batch.commands:model_promote",
            "Make a model live",
            "pingfeed model promote 1994839-ab0c2b04",
            _option("model_id", metavar="MODEL", help="its id, as `pingfeed model list` shows it"),
            _JSON,
        ),
        _command(
            "model rollback = batch.commands:model_rollback",
            "Make the model live that was live before",
            "pingfeed model rollback",
            _JSON,
        ),
    ),
    "Measure it": (
        _command(
            "evaluate affinity = simulator.commands:affinity",
            "Compare served feeds with simulated users' true preferences",
            "pingfeed evaluate affinity --users 200",
            _count("--users", 200, "how many users"),
            _count("--seed", 0, "chooses the users", low=0),
            _FEED,
            _REMOTE,
            _LAKE,
            _HOME,
            _JSON,
            more="The exit code is 1 if the served feed is not better than popular and new pings.",
        ),
        _command(
            "evaluate ranklens = batch.evaluate.commands:ranklens",
            "Measure the model on real lists of films, beside its peers",
            "pingfeed evaluate ranklens events.jsonl.gz --test-from 7000",
            _option("file", type=Path, metavar="FILE", help="Metarank's RankLens events, plain or gzip"),
            _count("--test-from", None, "train on the first N clicked lists", required=True),
            _JSON,
        ),
        _command(
            "skew = batch.commands:skew",
            "Recompute the feature vectors that the feed logged, and count those that differ",
            "pingfeed skew --days 2",
            _AT,
            _JSON,
            _count("--days", 2, "how many days of logged vectors"),
            more="The exit code is 1 if one differs.",
        ),
    ),
}
