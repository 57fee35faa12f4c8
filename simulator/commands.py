"""`pingfeed demo`, `pingfeed simulate` and `pingfeed evaluate affinity`."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pingfeed.core.clock import system_clock, to_iso
from pingfeed.core.ids import uuid7
from pingfeed.terminal import print_json, print_table
from simulator.world import FILE, Spec, World, load

_HOMES: Final = (Path("var/pingfeed"), Path("var/demo"))
_HTTP_TIMEOUT_S: Final = 10


def _home(environ: Mapping[str, str], given: str | None) -> Path:
    """Where a world is: as given, or as the services have it, or where `demo` keeps its own."""
    if given or environ.get("PINGFEED_HOME"):
        return Path(given or environ["PINGFEED_HOME"]).expanduser()
    return next((home for home in _HOMES if (home / FILE).exists()), _HOMES[0])


def history(
    *,
    users: int,
    pings: int,
    days: int,
    seed: int,
    home: str | None,
    until: int | None,
    tick_minutes: int,
    lake: str | None,
) -> None:
    """`pingfeed simulate history`."""
    from rich.console import Console
    from rich.progress import Progress

    from simulator.lake import is_remote, keep_in, write_history

    tick_ms = tick_minutes * 60_000
    until_ms = (system_clock() if until is None else until) // tick_ms * tick_ms
    world = World.build(Spec(until_ms=until_ms, tick_ms=tick_ms, users=users, pings=pings, days=days, seed=seed))
    place = lake or _home(os.environ, home) / "lake"
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"{days} days", total=1.0)
        rows = write_history(world, place, lambda share: progress.update(task, completed=share))
    if is_remote(place):
        # `simulate live` and the demo page look in the home, whose volume the lake does not share.
        keep_in(world, _home(os.environ, home))
    sys.stdout.write(f"{rows} rows below {place}, up to {to_iso(until_ms)}\n")


def live(
    *,
    home: str | None,
    rate: float,
    seconds: float | None,
    seed: int,
    ingest: str,
    feed: str,
    allow_remote: bool,
    json: bool,
) -> None:
    """`pingfeed simulate live`."""
    from simulator.remote import check_loopback

    for url in (ingest, feed):
        check_loopback(url, allow_remote)
    world = World.build(load(_home(os.environ, home)))
    counts = vars(asyncio.run(_play(world, rate, seconds, seed, ingest, feed)))
    if json:
        print_json(counts)
        return
    shown = (f"{name.replace('_', ' ')} {value}" for name, value in counts.items() if value is not None)
    sys.stdout.write(", ".join(shown) + "\n")


async def _play(world: World, rate: float, seconds: float | None, seed: int, ingest: str, feed: str) -> Any:
    import httpx
    import numpy as np

    from simulator.columns import ping_event_id
    from simulator.live import Live
    from simulator.remote import Patience, Services

    patience = Patience(seed=seed)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, patience.stop.set)
    async with httpx.AsyncClient(timeout=_HTTP_TIMEOUT_S, trust_env=False) as client:
        live = Live(
            world,
            Services(client, ingest.rstrip("/"), feed.rstrip("/"), patience),
            rate=rate,
            clock=system_clock,
            make_id=uuid7,
            ping_event_id=lambda number: ping_event_id(world.spec.seed, number),
            rng=np.random.default_rng([seed, 6]),
        )
        return await live.run(seconds)


def affinity(
    *, users: int, seed: int, feed: str, allow_remote: bool, lake: str | None, home: str | None, json: bool
) -> int:
    """`pingfeed evaluate affinity`; 1 if what is served is not better."""
    from simulator import measure
    from simulator.lake import Store
    from simulator.remote import check_loopback

    feed = check_loopback(feed, allow_remote)
    place = lake or _home(os.environ, home) / "lake"
    now_ms = system_clock()
    store = Store.open(place)
    spec = store.spec() if home is None else load(_home(os.environ, home))
    world = World.build(spec).at(now_ms)
    chosen = measure.choose_users(world, users, seed)
    events = store.events()
    served = asyncio.run(_ask(feed, chosen))
    report = measure.affinities(world, chosen, served, events, now_ms).report(seed)
    if json:
        print_json(report)
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
    rows = []
    for name in ("served", "popular", "newest", "oracle"):
        difference = report["paired"].get(f"served-{name}")
        gain = "" if difference is None else f"{difference['mean']:+.4f}"
        interval = "" if difference is None else f"{difference['ci'][0]:+.4f} to {difference['ci'][1]:+.4f}"
        rows.append((name, f"{report[name]['mean']:.4f}", gain, interval))
    heads = ("list", "mean true affinity", "served is better by", "95 % interval")
    print_table(heads, rows, title=f"{report['users']} users")


def demo(*, home: Path | None, no_live: bool, prepare: bool, **options: Any) -> int:
    """`pingfeed demo`; `options` are those of `Demo`."""
    from rich.console import Console

    from simulator import demo as demos

    place = home or (_home(os.environ, None) if prepare else Path("var/demo"))
    asked = demos.Demo(home=place.expanduser().absolute(), live=not no_live, **options)
    start = demos.prepare if prepare else demos.run
    return start(asked, Console(), os.environ, system_clock)
