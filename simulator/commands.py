"""`pingfeed demo`, `pingfeed simulate` and `pingfeed evaluate affinity`."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pingfeed.core.clock import system_clock, to_iso
from pingfeed.core.ids import uuid7
from pingfeed.core.words import counted
from pingfeed.home import DEFAULT, VARIABLE, follow, point_to
from pingfeed.terminal import print_json, print_table
from simulator.world import Spec, World, load

if TYPE_CHECKING:
    from simulator.remote import Services

_DEMO_HOME: Final = Path("var/demo")
_HTTP_TIMEOUT_S: Final = 10


def _home(given: str | None) -> Path:
    """The folder of a world: as given, or as every command has it."""
    return Path(given or os.environ.get(VARIABLE) or DEFAULT).expanduser()


def history(*, home: str | None, until: int | None, tick_minutes: int, lake: str | None, **parameters: int) -> None:
    """`pingfeed simulate history`; `parameters` are those of `Spec`."""
    from rich.console import Console
    from rich.progress import Progress

    from simulator.lake import is_remote, open_lake, save_world, write_history

    tick_ms = tick_minutes * 60_000
    until_ms = (system_clock() if until is None else until) // tick_ms * tick_ms
    world = World.build(Spec(until_ms=until_ms, tick_ms=tick_ms, **parameters))
    place = lake or _home(home) / "lake"
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(counted(world.spec.days, "day"), total=1.0)
        rows = write_history(world, place, lambda share: progress.update(task, completed=share))
    if is_remote(place):
        # `simulate live` and the demo page read these files from the home, which a remote lake does not share.
        save_world(world, open_lake(_home(home) / "lake")[1])
    if home and not lake and not os.environ.get(VARIABLE):
        point_to(_home(home))
    sys.stdout.write(f"{counted(rows, 'row')} below {place}, up to {to_iso(until_ms)}\n")


def live(*, home: str | None, ingest: str, feed: str, allow_remote: bool, json: bool, **options: Any) -> None:
    """`pingfeed simulate live`; `options` are rate, seconds and seed."""
    from simulator.remote import check_loopback

    ingest, feed = (check_loopback(url, allow_remote) for url in (ingest, feed))
    world = World.build(load(_home(home)))
    counts = vars(asyncio.run(_run_live(world, ingest, feed, **options)))
    if json:
        print_json(counts)
        return
    shown = (f"{name.replace('_', ' ')} {value}" for name, value in counts.items() if value is not None)
    sys.stdout.write(", ".join(shown) + "\n")


async def _run_live(world: World, ingest: str, feed: str, *, rate: float, seconds: float | None, seed: int) -> Any:
    import numpy as np

    from simulator.live import LiveTraffic

    async with _connected(ingest, feed) as services:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, services.stop.set)
        rng = np.random.default_rng([seed, 6])
        traffic = LiveTraffic(world, services, rate=rate, clock=system_clock, make_id=uuid7, rng=rng)
        return await traffic.run(seconds)


def affinity(
    *, users: int, seed: int, feed: str, allow_remote: bool, lake: str | None, home: str | None, json: bool
) -> int:
    """`pingfeed evaluate affinity`; 1 if the served feed is not better than the baselines."""
    from simulator import measure
    from simulator.lake import world_beside
    from simulator.remote import check_loopback

    feed = check_loopback(feed, allow_remote)
    place = lake or _home(home) / "lake"
    now_ms = system_clock()
    spec = world_beside(place) if home is None else load(_home(home))
    world = World.build(spec).at(now_ms)
    chosen = measure.choose_users(world, users, seed)
    events = measure.open_events(place)
    served = asyncio.run(_request_feeds(feed, chosen))
    report = measure.affinities(world, chosen, served, events, now_ms).report(seed)
    if json:
        print_json(report)
    else:
        _print_report(report)
    return 0 if measure.passed(report) else 1


async def _request_feeds(feed: str, users: Any) -> list[list[str]]:
    from simulator.measure import served_pings

    async with _connected("", feed, attempts=4) as services:
        return await served_pings(services, users)


@asynccontextmanager
async def _connected(ingest: str, feed: str, attempts: int | None = None) -> "AsyncIterator[Services]":
    import httpx

    from simulator.remote import Services

    async with httpx.AsyncClient(timeout=_HTTP_TIMEOUT_S, trust_env=False) as client:
        yield Services(client, ingest, feed, attempts)


def _print_report(report: dict[str, Any]) -> None:
    rows = []
    for name in ("served", "popular", "newest", "oracle"):
        row = [name, f"{report[name]['mean']:.4f}", "", ""]
        if difference := report["paired"].get(f"served-{name}"):
            low, high = difference["ci"]
            row[2:] = f"{difference['mean']:+.4f}", f"{low:+.4f} to {high:+.4f}"
        rows.append(row)
    heads = ("list", "mean true affinity", "served is better by", "95 % interval")
    print_table(heads, rows, title=counted(report["users"], "user"))


def demo(*, home: Path | None, no_live: bool, prepare: bool, **options: Any) -> int:
    """`pingfeed demo`; `options` are those of `Demo`."""
    from rich.console import Console

    from simulator.demo import Demo, run

    console = Console()
    if prepare and home is None:
        follow(os.environ)
    home = (home or (_home(None) if prepare else _DEMO_HOME)).expanduser().absolute()
    others = os.environ.get(VARIABLE) or (home if prepare or point_to(home) else DEFAULT)
    if Path(others).absolute() != home:
        sentence = f"Other commands stay with {others}; {VARIABLE}={home} chooses the demo's home"
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    return run(Demo(home, live=not no_live, prepare=prepare, **options), console, os.environ, system_clock)
