"""`pingfeed demo`: a small simulated world on this machine, from nothing to a served feed.

The first run writes a history, runs the batch jobs over it once, and serves. It records finished steps in `demo.json`:
an interrupted run resumes there, and later runs serve at once while one tick catches up in the background.
"""

import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final

import httpx
import msgspec
import numpy as np
import pyarrow.compute as pc
from rich.console import Console

from pingfeed.core.clock import Clock, to_iso
from pingfeed.core.errors import Busy, InvalidInput, NotFound, Unavailable
from pingfeed.core.integrity import UNREADABLE
from pingfeed.core.words import counted
from pingfeed.files import write_whole
from simulator.measure import open_events
from simulator.processes import COMMAND, Children, stopped_at_exit
from simulator.world import FILE, TICK_MS, Spec, World, creator_id, load, ping_id, user_id

HOST: Final = "127.0.0.1"
STATE: Final = "demo.json"
_READY_S: Final = 90
_LIVE_RATE: Final = 4
_WAIT_S: Final = 600
_FEED_S: Final = 5
_FEEDS: Final = 4
_FAVOURITES: Final = 50
_PARAMETERS: Final = ("seed", "users", "pings", "days")
_LABELS: Final = {
    "history": "writing the simulated history",
    "etl": "loading its events (etl)",
    "train": "training the ranker (train)",
    "tick": "selecting candidates for every user (tick)",
}


@dataclass(frozen=True)
class Demo:
    """The command's options."""

    home: Path
    users: int
    pings: int
    days: int
    seed: int
    ingest_port: int
    feed_port: int
    live: bool = True
    exit_after_ready: bool = False
    prepare: bool = False

    @property
    def ingest(self) -> str:
        """Address of the ingest service."""
        return f"http://{HOST}:{self.ingest_port}"

    @property
    def feed(self) -> str:
        """Address of the feed service."""
        return f"http://{HOST}:{self.feed_port}"

    def steps(self, until: str, environ: Mapping[str, str]) -> dict[str, list[str]]:
        """The steps of the first run: names and commands.

        An installation's lake may be elsewhere, and its scheduler may be running. Its candidates come before the model,
        so that the feed works sooner, with the fallback ranker.
        """
        history = ["simulate", "history", "--home", str(self.home), "--until", until]
        for name in _PARAMETERS:
            history += [f"--{name}", str(getattr(self, name))]
        if not self.prepare:
            return {"history": history, "etl": ["etl"], "train": ["train"], "tick": ["tick", "--all"]}
        if lake := environ.get("PINGFEED_LAKE_URL", ""):
            history += ["--lake", lake.removeprefix("file://")]
        wait = ["--wait", str(_WAIT_S)]
        return {"history": history, "etl": ["etl", *wait], "tick": ["tick", "--all", *wait], "train": ["train", *wait]}


def run(
    demo: Demo, console: Console, environ: Mapping[str, str], clock: Clock, command: Sequence[str] = COMMAND
) -> int:
    """Run the demo until it is stopped; returns the exit code. `command` runs `pingfeed` with further arguments.

    With `demo.prepare`, only create the world of the installation that `environ` describes.
    """
    _check_world(demo)
    if not demo.prepare:
        _check_port("ingest", demo.ingest_port)
        _check_port("feed", demo.feed_port)
        environ = _environment(environ, demo)
    demo_run = _Run(demo, console, Children(environ, demo.home / "logs", command))
    try:
        with stopped_at_exit(demo_run.stop):
            first = demo_run.prepare(clock, environ)
            if not demo.prepare:
                demo_run.serve(clock, "schedule" if first else "tick")
    except KeyboardInterrupt:
        return 130 if demo.prepare else 0
    return 0


def _environment(environ: Mapping[str, str], demo: Demo) -> dict[str, str]:
    """The children's environment: the demo's own settings, without this shell's settings of another installation."""
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
    """InvalidInput for impossible parameters, or if the home holds a world with other ones."""
    Spec(**{name: getattr(demo, name) for name in _PARAMETERS}, until_ms=0)
    try:
        present = load(demo.home)
    except NotFound:
        return
    for name in _PARAMETERS:
        if getattr(present, name) != getattr(demo, name):
            raise InvalidInput(
                f"{demo.home} holds a world with {name} {getattr(present, name)}, not {getattr(demo, name)}; "
                "choose another --home, or remove it",
                field=name,
            )


def _check_port(name: str, port: int) -> None:
    """Busy if the port is in use: better reported now than after the training."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            message = f"port {port} on {HOST} is taken ({error.strerror}); free it or choose --{name}-port"
            raise Busy(message) from error


class _Run:
    """One run of the demo and its child processes."""

    def __init__(self, demo: Demo, console: Console, children: Children) -> None:
        self._demo = demo
        self._console = console
        self._children = children
        self._state = demo.home / STATE

    def serve(self, clock: Clock, job: str) -> None:
        """Serve the world, with the batch command `job` beside it, until a service or this process ends."""
        demo, children = self._demo, self._children
        self._start_services()
        for line in [*welcome(World.build(load(demo.home)), demo, clock()), f"State and logs: {demo.home}"]:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        if demo.exit_after_ready:
            return
        children.start(job, [job])
        if demo.live:
            services = ["--ingest", demo.ingest, "--feed", demo.feed, "--home", str(demo.home)]
            children.start("live", ["simulate", "live", "--rate", str(_LIVE_RATE), *services])
        self._console.print("Press Ctrl-C to stop everything.")
        while True:
            self._watch()
            time.sleep(0.5)

    def prepare(self, clock: Clock, environ: Mapping[str, str]) -> bool:
        """Run the steps that no earlier run finished; returns whether there were any."""
        home = self._demo.home
        begun = (home / FILE).exists()
        until_ms = load(home).until_ms if begun else clock() // TICK_MS * TICK_MS
        done = self._finished() if begun else []
        steps = self._demo.steps(to_iso(until_ms), environ)
        missing = [name for name in steps if name not in done]
        for number, name in enumerate(missing, 1):
            self._step(name, steps[name], f"({number}/{len(missing)}) {_LABELS[name]}")
            done.append(name)
            write_whole(self._state, msgspec.json.encode(done))
        return bool(missing)

    def _finished(self) -> list[str]:
        try:
            return msgspec.json.decode(self._state.read_bytes(), type=list[str])
        except (FileNotFoundError, *UNREADABLE):
            return []  # every step may be repeated

    def _step(self, name: str, arguments: list[str], label: str) -> None:
        began = time.monotonic()
        self._children.start(name, arguments)
        with self._console.status(label) as status:
            while (code := self._children.ended(name)) is None:
                status.update(f"{label}  {time.monotonic() - began:.0f} s")
                time.sleep(0.1)
        if code:
            raise self._children.failure(name, code)
        self._console.print(f"{label}  [dim]{time.monotonic() - began:.1f} s[/dim]")

    def _start_services(self) -> None:
        """Start both services and wait until they are ready."""
        demo, began = self._demo, time.monotonic()
        for name, port in (("ingest", demo.ingest_port), ("feed", demo.feed_port)):
            self._children.start(name, ["serve", name, "--host", HOST, "--port", str(port)])
        with self._console.status("starting the services"), httpx.Client(trust_env=False, timeout=2) as client:
            for name, url in (("ingest", demo.ingest), ("feed", demo.feed)):
                while not _ready(client, url):
                    self._check_running(name)
                    if time.monotonic() - began > _READY_S:
                        raise Unavailable(f"{name} is not ready after {_READY_S} s; see {self._children.log(name)}")
                    time.sleep(0.1)
        self._console.print(f"serving  [dim]{time.monotonic() - began:.1f} s[/dim]")

    def _check_running(self, service: str) -> None:
        code = self._children.ended(service)
        if code is not None:
            raise self._children.failure(service, code)

    def _watch(self) -> None:
        """Check every child: the demo needs both services and goes on without the others."""
        self._check_running("ingest")
        self._check_running("feed")
        for name in ("tick", "schedule", "live"):
            code = self._children.ended(name)
            if code:
                self._console.print(f"{name} exited with code {code}; see {self._children.log(name)}", highlight=False)
            if name == "tick" and code is not None:
                self._children.start("schedule", ["schedule"])

    def stop(self) -> None:
        """Stop all children and report which ones ran."""
        with self._console.status("stopping"):
            names = self._children.stop()
        if names:
            self._console.print(f"stopped {', '.join(names)}", highlight=False)


def _ready(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def welcome(world: World, demo: Demo, now_ms: int) -> list[str]:
    """What to open, and commands to try with ids of this world.

    The follow and the hide are about pings that the user's feed holds now, and the creator is not followed yet.
    """
    number = int(world.users.feeds_per_day.argmax())
    user = user_id(number)
    (hidden, its_creator), *others = shown(demo.feed, user) or _favourites(world, number, now_ms)
    known = {its_creator, *_followed(demo.home, user)}
    fresh = next((creator for _, creator in others if creator not in known), its_creator)
    follow = {"event_type": "follow", "user_id": user, "creator_id": fresh}
    hide = {"event_type": "hide", "user_id": user, "ping_id": hidden}
    get_feed = f"curl -s '{demo.feed}/get-feed?user_id={user}'"
    users = counted(len(world.users), "user")
    return [
        "",
        f"Open   {demo.feed}/          a feed that reacts: pick one of {users}; follow, hide, like",
        f"       {demo.feed}/docs      API of the feed: try GET /get-feed",
        f"       {demo.ingest}/docs      API of ingest: send events",
        "",
        f"Try    the feed of {user}, the most active of {users}; a follow; a hide and the feed again",
        get_feed,
        _post(demo.ingest, follow),
        f"{_post(demo.ingest, hide)} && {get_feed}",
        "",
    ]


def shown(feed: str, user: str) -> list[tuple[str, str]]:
    """The pings of a user's feed with their creators, the steadiest first; [] if there is no feed.

    Diversity rotates what it has shown: what several feeds hold, the next one very likely holds too.
    """
    try:
        with httpx.Client(trust_env=False, timeout=_FEED_S) as client:
            ask = partial(client.get, f"{feed}/get-feed", params={"user_id": user})
            feeds = [[(item["ping_id"], item["creator_id"]) for item in ask().json()["items"]] for _ in range(_FEEDS)]
    except (httpx.HTTPError, ValueError, LookupError, TypeError):
        return []  # no feed, or that of something else
    times = Counter(chain.from_iterable(feeds))
    return sorted(feeds[-1], key=lambda item: -times[item])


def _followed(home: Path, user: str) -> list[str]:
    """The creators that the user has ever followed, as far as events have landed."""
    about = (pc.field("user_id") == user) & (pc.field("event_type") == "follow")
    with suppress(NotFound):
        creators: list[str] = open_events(home / "lake").to_table(["creator_id"], about)["creator_id"].to_pylist()
        return creators
    return []


def _favourites(world: World, user: int, now_ms: int) -> list[tuple[str, str]]:
    """The pings that a user would like best, with their creators."""
    best = np.argsort(-world.true_affinity(user, np.arange(len(world.pings)), now_ms), kind="stable")
    return [(ping_id(int(at)), creator_id(int(world.pings.creator[at]))) for at in best[:_FAVOURITES]]


def _post(ingest: str, event: dict[str, str]) -> str:
    body = msgspec.json.encode(event).decode()
    return f"curl -s -H 'content-type: application/json' -d '{body}' {ingest}/track-event"
