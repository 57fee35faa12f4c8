"""`pingfeed demo`: a small world on this machine, from nothing to a feed that is served.

The first run writes a history, runs the batch side over it once and serves; its steps are noted in `demo.json`, so that
an interrupted run goes on where it stopped and the second serves at once, catching up by one tick in the background.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import msgspec
import numpy as np
from rich.console import Console

from pingfeed.core.clock import Clock, to_iso
from pingfeed.core.errors import Busy, InvalidInput, NotFound, Unavailable
from simulator import personas
from simulator.processes import COMMAND, Children, ended_by_signal, undisturbed
from simulator.world import FILE, TICK_MS, Spec, World, creator_id, load, ping_id, user_id

HOST: Final = "127.0.0.1"
STATE: Final = "demo.json"
_READY_S: Final = 90
_LIVE_RATE: Final = 4
_PATIENCE_S: Final = 600
_SAID: Final = {
    "history": "writing the world's history",
    "etl": "reading it (etl)",
    "train": "training a ranker",
    "tick": "candidates for everybody (tick)",
}


@dataclass(frozen=True)
class Demo:
    """What was asked for."""

    home: Path
    users: int
    pings: int
    days: int
    seed: int
    ingest_port: int
    feed_port: int
    live: bool = True
    exit_after_ready: bool = False

    @property
    def ingest(self) -> str:
        """Address of the ingest service."""
        return f"http://{HOST}:{self.ingest_port}"

    @property
    def feed(self) -> str:
        """Address of the feed service."""
        return f"http://{HOST}:{self.feed_port}"

    def steps(self, until: str) -> dict[str, list[str]]:
        """The first run's steps: name and command."""
        world = {"--days": self.days, "--users": self.users, "--pings": self.pings, "--seed": self.seed}
        history = ["simulate", "history", "--home", str(self.home), "--until", until]
        history += [text for name, number in world.items() for text in (name, str(number))]
        return {"history": history, "etl": ["etl"], "train": ["train"], "tick": ["tick", "--all"]}

    def steps_elsewhere(self, until: str, lake: str) -> dict[str, list[str]]:
        """The same in an installation whose lake is at a URL, and where a scheduler may be at work.

        Candidates come before the model: the feed lives the sooner, and ranks by the default until it is trained.
        """
        steps = self.steps(until)
        where = ["--lake", lake.removeprefix("file://")] if lake else []
        waiting = {name: [*steps[name], "--wait", str(_PATIENCE_S)] for name in ("etl", "tick", "train")}
        return {"history": steps["history"] + where} | waiting


def run(
    demo: Demo, console: Console, environ: Mapping[str, str], clock: Clock, command: Sequence[str] = COMMAND
) -> int:
    """Run the demo until it is stopped; returns the exit code. `command` runs `pingfeed` with further arguments."""
    _check_world(demo)
    for name, port in (("ingest", demo.ingest_port), ("feed", demo.feed_port)):
        _check_port(name, port)
    children = Children(_environment(environ, demo), demo.home / "logs", command)
    with ended_by_signal():
        try:
            return _run(demo, console, children, clock)
        except KeyboardInterrupt:
            return 0
        finally:
            with undisturbed():
                _stop(children, console)


def prepare(
    demo: Demo, console: Console, environ: Mapping[str, str], clock: Clock, command: Sequence[str] = COMMAND
) -> int:
    """Make a world of the installation that `environ` describes, from history to packets; once. Serve nothing."""
    _check_world(demo)
    children = Children(environ, demo.home / "logs", command)
    with ended_by_signal():
        try:
            lake = environ.get("PINGFEED_LAKE_URL", "")
            _prepare(demo, console, children, clock, lambda until: demo.steps_elsewhere(until, lake))
        except KeyboardInterrupt:
            return 130
        finally:
            with undisturbed():
                children.stop()
    return 0


def _run(demo: Demo, console: Console, children: Children, clock: Clock) -> int:
    first = _prepare(demo, console, children, clock, demo.steps)
    _serve(demo, console, children)
    _show(demo, console, clock())
    if demo.exit_after_ready:
        return 0
    if first:
        children.start("schedule", ["schedule"])
    else:
        children.start("tick", ["tick"])
    if demo.live:
        children.start("live", _live(demo))
    console.print("Ctrl-C stops all of it.")
    while True:
        _watch(console, children)
        time.sleep(0.5)


def _environment(environ: Mapping[str, str], demo: Demo) -> dict[str, str]:
    """The children's environment: the demo's own settings, whatever this shell has set for another installation."""
    kept = {name: value for name, value in environ.items() if not name.startswith("PINGFEED_")}
    return kept | {
        "PINGFEED_HOME": str(demo.home),
        "PINGFEED_AUTH": "none",
        "PINGFEED_SINK_FLUSH_SECONDS": "2",
        "PINGFEED_DEMO_PAGE": "1",
        "PINGFEED_DEMO_INGEST_URL": demo.ingest,
        "PINGFEED_CORS_ORIGINS": f"{demo.feed},http://localhost:{demo.feed_port}",
    }


def _check_world(demo: Demo) -> None:
    """A world that can be, and the one that the home holds if it holds one."""
    Spec(users=demo.users, pings=demo.pings, days=demo.days, seed=demo.seed, until_ms=0)
    try:
        there = load(demo.home)
    except NotFound:
        return
    for name in ("seed", "users", "pings", "days"):
        if getattr(there, name) != getattr(demo, name):
            raise InvalidInput(
                f"{demo.home} holds a world with {name} {getattr(there, name)}, not {getattr(demo, name)}; "
                "choose another --home, or remove it",
                field=name,
            )


def _check_port(name: str, port: int) -> None:
    """Busy if somebody listens there already: better now than after the training."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise Busy(
                f"port {port} on {HOST} is taken ({error.strerror}); stop what listens there or choose --{name}-port"
            ) from error


def _done(home: Path) -> list[str]:
    """The steps that an earlier run finished."""
    try:
        return msgspec.json.decode((home / STATE).read_bytes(), type=list[str])
    except (FileNotFoundError, msgspec.DecodeError):
        # A state that cannot be read only means that the steps are taken again; each may be repeated.
        return []


def _mark(home: Path, done: list[str]) -> None:
    hidden = home / f".{STATE}"
    hidden.write_bytes(msgspec.json.encode(done))
    os.replace(hidden, home / STATE)


def _prepare(
    demo: Demo, console: Console, children: Children, clock: Clock, steps_until: Callable[[str], dict[str, list[str]]]
) -> bool:
    """Take the steps that are missing; returns whether there were any."""
    begun = (demo.home / FILE).exists()
    until_ms = load(demo.home).until_ms if begun else clock() // TICK_MS * TICK_MS
    done = _done(demo.home) if begun else []
    steps = steps_until(to_iso(until_ms))
    missing = [name for name in steps if name not in done]
    for number, name in enumerate(missing, 1):
        children.start(name, steps[name])
        _finish(f"({number}/{len(missing)}) {_SAID[name]}", name, console, children)
        done.append(name)
        _mark(demo.home, done)
    return bool(missing)


def _finish(said: str, name: str, console: Console, children: Children) -> None:
    """Wait for a step, showing the seconds as they pass and how many it took."""
    with console.status(said) as status:
        seconds = children.finish(name, lambda so_far: status.update(f"{said}  {so_far:.0f} s"))
    console.print(f"{said}  [dim]{seconds:.1f} s[/dim]")


def _serve(demo: Demo, console: Console, children: Children) -> None:
    """Start both services and wait until they say that they are ready."""
    if not (demo.home / personas.FILE).exists():
        personas.save(World.build(load(demo.home)), demo.home)
    began = time.monotonic()
    for name, port in (("ingest", demo.ingest_port), ("feed", demo.feed_port)):
        children.start(name, ["serve", name, "--host", HOST, "--port", str(port)])
    with console.status("starting the services"), httpx.Client(trust_env=False, timeout=2) as client:
        for name, url in (("ingest", demo.ingest), ("feed", demo.feed)):
            while not _ready(client, url):
                _check_running(name, children)
                if time.monotonic() - began > _READY_S:
                    raise Unavailable(f"{name} is not ready after {_READY_S} s; see {children.log(name)}")
                time.sleep(0.1)
    console.print(f"serving  [dim]{time.monotonic() - began:.1f} s[/dim]")


def _ready(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def _check_running(name: str, children: Children) -> None:
    code = children.ended(name)
    if code is not None:
        raise children.failure(name, code)


def _watch(console: Console, children: Children) -> None:
    """One look at everybody: without a service the demo is over, without the others it goes on."""
    for service in ("ingest", "feed"):
        _check_running(service, children)
    caught_up = children.ended("tick")
    if caught_up is not None:
        _tell_end(console, children, "tick", caught_up)
        children.start("schedule", ["schedule"])
    for name in ("schedule", "live"):
        code = children.ended(name)
        if code is not None:
            _tell_end(console, children, name, code)


def _tell_end(console: Console, children: Children, name: str, code: int) -> None:
    if code:
        console.print(f"{name} ended with exit code {code}; see {children.log(name)}", highlight=False)


def _live(demo: Demo) -> list[str]:
    where = ["--ingest", demo.ingest, "--feed", demo.feed, "--home", str(demo.home)]
    return ["simulate", "live", "--rate", str(_LIVE_RATE), *where]


def _show(demo: Demo, console: Console, now_ms: int) -> None:
    world = World.build(load(demo.home))
    for line in [*welcome(world, demo.ingest, demo.feed, now_ms), f"State and logs: {demo.home}"]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _stop(children: Children, console: Console) -> None:
    with console.status("stopping"):
        names = children.stop()
    if names:
        console.print(f"stopped {', '.join(names)}", highlight=False)


def welcome(world: World, ingest: str, feed: str, now_ms: int) -> list[str]:
    """What to open, and three commands to try with ids of this world; `ingest` and `feed` are the services' addresses.

    The follow and the hide are about the pings that the user would enjoy most, which a good feed soon shows.
    """
    user = int(world.users.feeds_per_day.argmax())
    who = user_id(user)
    liked, hidden = _favourites(world, user, now_ms)
    follow = {"event_type": "follow", "user_id": who, "creator_id": creator_id(int(world.pings.creator[liked]))}
    hide = {"event_type": "hide", "user_id": who, "ping_id": ping_id(hidden)}
    ask = f"curl -s '{feed}/get-feed?user_id={who}'"
    return [
        "",
        f"Open   {feed}/          a feed that reacts: be one of {len(world.users)} people, follow, hide, like",
        f"       {feed}/docs      its API: try GET /get-feed",
        f"       {ingest}/docs      events in",
        "",
        f"Try    {who}, the most active of {len(world.users)} users: their feed, a follow, a hide and the feed again",
        ask,
        _post(ingest, follow),
        f"{_post(ingest, hide)} && {ask}",
        "",
    ]


def _favourites(world: World, user: int, now_ms: int) -> tuple[int, int]:
    """The numbers of a user's best ping and of the best by another creator."""
    affinity = world.true_affinity(user, np.arange(len(world.pings)), now_ms)
    best = int(affinity.argmax())
    elsewhere = world.pings.creator != world.pings.creator[best]
    return best, int(np.where(elsewhere, affinity, -1).argmax())


def _post(ingest: str, event: dict[str, str]) -> str:
    body = msgspec.json.encode(event).decode()
    return f"curl -s -H 'content-type: application/json' -d '{body}' {ingest}/track-event"
