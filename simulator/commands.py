"""`pingfeed simulate`, `pingfeed evaluate` and `pingfeed demo`: options in, results out."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from pingfeed.core.clock import system_clock, to_iso, to_ms
from pingfeed.core.errors import InvalidInput
from pingfeed.core.ids import uuid7
from simulator.world import FILE, TICK_MS, Spec, World, load

INGEST: Final = "http://127.0.0.1:8000"
FEED: Final = "http://127.0.0.1:8001"
_HOMES: Final = (Path("var/pingfeed"), Path("var/demo"))
_HTTP_TIMEOUT_S: Final = 10


def _home(environ: Mapping[str, str], given: str | None) -> Path:
    """Where a world is: as given, or as the services have it, or where `demo` keeps its own."""
    if given or environ.get("PINGFEED_HOME"):
        return Path(given or environ["PINGFEED_HOME"]).expanduser()
    return next((home for home in _HOMES if (home / FILE).exists()), _HOMES[0])


def _add_world(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--pings", type=int, default=2000)
    parser.add_argument("--days", type=int, default=14)
    parser.add_argument("--seed", type=int, default=7, help="the same seed makes the same world")


def _add_home(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--home", help=f"folder with {FILE} (default: PINGFEED_HOME, else var/pingfeed or var/demo, if it has one)"
    )


def _add_lake(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lake", help=f"the lake, a folder or s3://bucket/prefix; {FILE} lies beside it (default: HOME/lake)"
    )


def simulate(parser: argparse.ArgumentParser) -> None:
    """Configure `pingfeed simulate history` and `pingfeed simulate live`."""
    words = parser.add_subparsers(metavar="history|live", required=True)
    history = words.add_parser("history", help="write weeks of events to the lake")
    _add_world(history)
    _add_home(history)
    history.add_argument("--until", help="ISO 8601 time of its end (default: the last tick before now)")
    history.add_argument("--tick-minutes", type=int, default=TICK_MS // 60_000)
    _add_lake(history)
    history.set_defaults(run=_history)
    live = words.add_parser("live", help="play over HTTP until stopped")
    _add_home(live)
    live.add_argument("--rate", type=float, default=20.0, help="events a second, at most (default: %(default)s)")
    live.add_argument("--seconds", type=float, help="how long (default: until stopped)")
    live.add_argument("--seed", type=int, default=0, help="of what the users do")
    live.add_argument("--ingest", default=INGEST, help="default: %(default)s")
    live.add_argument("--feed", default=FEED, help="default: %(default)s")
    live.add_argument("--allow-remote", action="store_true", help="play on another machine than this one")
    live.add_argument("--json", action="store_true", help="print what happened as JSON")
    live.set_defaults(run=_live)


def _until_ms(text: str | None, tick_ms: int) -> int:
    if text is None:
        return system_clock() // tick_ms * tick_ms
    try:
        return to_ms(datetime.fromisoformat(text)) // tick_ms * tick_ms
    except ValueError as error:
        raise InvalidInput(f"--until must be a time such as 2026-11-22T12:00:00Z, not {text}", field="until") from error


def _history(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from simulator.lake import keep_in, write_history
    from simulator.store import is_elsewhere

    tick_ms = max(1, options.tick_minutes) * 60_000
    until_ms = _until_ms(options.until, tick_ms)
    world_options = {name: getattr(options, name) for name in ("users", "pings", "days", "seed")}
    world = World.build(Spec(until_ms=until_ms, tick_ms=tick_ms, **world_options))
    lake = options.lake or _home(os.environ, options.home) / "lake"
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"{options.days} days", total=1.0)
        rows = write_history(world, lake, lambda share: progress.update(task, completed=share))
    if is_elsewhere(lake):
        # `simulate live` and the demo page look in the home, whose volume the lake does not share.
        keep_in(world, _home(os.environ, options.home))
    sys.stdout.write(f"{rows} rows below {lake}, up to {to_iso(until_ms)}\n")
    return 0


def _live(options: argparse.Namespace) -> int:
    from simulator.remote import check_loopback

    if options.rate <= 0:
        raise InvalidInput("--rate must be above 0", field="rate")
    for url in (options.ingest, options.feed):
        check_loopback(url, options.allow_remote)
    world = World.build(load(_home(os.environ, options.home)))
    counts = asyncio.run(_play(options, world))
    _print_counts(vars(counts), options.json)
    return 0


async def _play(options: argparse.Namespace, world: World) -> Any:
    import httpx
    import numpy as np

    from simulator.columns import ping_event_id
    from simulator.live import Live
    from simulator.remote import Patience, Services

    patience = Patience(seed=options.seed)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, patience.stop.set)
    async with httpx.AsyncClient(timeout=_HTTP_TIMEOUT_S, trust_env=False) as client:
        live = Live(
            world,
            Services(client, options.ingest.rstrip("/"), options.feed.rstrip("/"), patience),
            rate=options.rate,
            clock=system_clock,
            make_id=uuid7,
            ping_event_id=lambda number: ping_event_id(world.spec.seed, number),
            rng=np.random.default_rng([options.seed, 6]),
        )
        return await live.run(options.seconds)


def _print_counts(counts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        sys.stdout.write(msgspec.json.encode(counts).decode() + "\n")
        return
    shown = (f"{name.replace('_', ' ')} {value}" for name, value in counts.items() if value is not None)
    sys.stdout.write(", ".join(shown) + "\n")


def affinity(parser: argparse.ArgumentParser) -> None:
    """Configure `pingfeed evaluate affinity`; its exit code is 1 if what is served is not better."""
    parser.add_argument("--users", type=int, default=200, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="chooses the users")
    parser.add_argument("--feed", default=FEED, help="default: %(default)s")
    parser.add_argument("--allow-remote", action="store_true", help="ask a feed on another machine")
    _add_lake(parser)
    _add_home(parser)
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=_affinity)


def _affinity(options: argparse.Namespace) -> int:
    from simulator import measure
    from simulator.lake import world_beside
    from simulator.remote import check_loopback

    if options.users < 1:
        raise InvalidInput("--users must be at least 1", field="users")
    feed = check_loopback(options.feed, options.allow_remote)
    lake = options.lake or _home(os.environ, options.home) / "lake"
    now_ms = system_clock()
    spec = world_beside(lake) if options.home is None else load(_home(os.environ, options.home))
    world = World.build(spec).at(now_ms)
    users = measure.choose_users(world, options.users, options.seed)
    events = measure.open_events(lake)
    served = asyncio.run(_ask(feed, users))
    report = measure.affinities(world, users, served, events, now_ms).report(options.seed)
    if options.json:
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        _print_report(report)
    return 0 if measure.passed(report) else 1


async def _ask(feed: str, users: Any) -> list[list[str]]:
    import httpx

    from simulator.measure import served_pings
    from simulator.remote import Patience, Services

    async with httpx.AsyncClient(timeout=_HTTP_TIMEOUT_S, trust_env=False) as client:
        return await served_pings(Services(client, "", feed, Patience(attempts=4)), users)


def _print_report(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "list", "mean true affinity", "served is better by", "95 % interval", title=f"{report['users']} users"
    )
    for name in ("served", "popular", "newest", "oracle"):
        difference = report["paired"].get(f"served-{name}")
        gain = "" if difference is None else f"{difference['mean']:+.4f}"
        interval = "" if difference is None else f"{difference['ci'][0]:+.4f} to {difference['ci'][1]:+.4f}"
        table.add_row(name, f"{report[name]['mean']:.4f}", gain, interval)
    Console().print(table)


def demo(parser: argparse.ArgumentParser) -> None:
    """Configure `pingfeed demo`."""
    parser.add_argument("--home", type=Path, help="where its state lives (default: var/demo)")
    _add_world(parser)
    parser.add_argument("--ingest-port", type=int, default=8000)
    parser.add_argument("--feed-port", type=int, default=8001)
    parser.add_argument("--no-live", action="store_true", help="no traffic but your own")
    parser.add_argument("--exit-after-ready", action="store_true", help="stop everything as soon as it is ready")
    parser.add_argument(
        "--prepare",
        action="store_true",
        help="only make the world, in the installation that the settings name and its PINGFEED_HOME; serve nothing",
    )
    parser.set_defaults(run=_demo)


def _demo(options: argparse.Namespace) -> int:
    from rich.console import Console

    from simulator.demo import Demo, prepare, run

    home = options.home or (_home(os.environ, None) if options.prepare else Path("var/demo"))
    asked = Demo(
        home=home.expanduser().absolute(),
        users=options.users,
        pings=options.pings,
        days=options.days,
        seed=options.seed,
        ingest_port=options.ingest_port,
        feed_port=options.feed_port,
        live=not options.no_live,
        exit_after_ready=options.exit_after_ready,
    )
    start = prepare if options.prepare else run
    return start(asked, Console(), os.environ, system_clock)
