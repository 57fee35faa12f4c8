"""The order of the demo's steps, with a stand-in for the `pingfeed` command that records its arguments."""

import dataclasses
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from pingfeed.core.clock import to_iso
from pingfeed.core.errors import Busy, InvalidInput
from simulator.demo import Demo, run, welcome
from simulator.processes import ChildFailed, Children
from simulator.world import TICK_MS, Spec, World, encode
from tests.unit.lakes import LakeWorld, row

NOW_MS = 1_800_000_000_000
UNTIL_MS = NOW_MS // TICK_MS * TICK_MS

STAND_IN = (
    f"UNTIL_MS = {UNTIL_MS}"
    + """
import http.server, os, pathlib, signal, sys, time
home = pathlib.Path(os.environ["PINGFEED_HOME"])
argv = sys.argv[1:]
with (home / "asked.txt").open("a") as asked:
    asked.write(f"{os.getpid()} {' '.join(argv)}\\n")
if (home / f"fail-{argv[0]}").exists():
    sys.exit(f"line one\\nthe reason why {argv[0]} failed")
if argv[0] == "simulate" and argv[1] == "history":
    from simulator.world import Spec, encode
    (home / "world.json").write_bytes(encode(Spec(users=20, pings=40, days=1, until_ms=UNTIL_MS)))
elif argv[0] == "serve":
    class Ready(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
        def log_message(self, *args):
            pass
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    http.server.HTTPServer((argv[argv.index("--host") + 1], int(argv[-1])), Ready).serve_forever()
elif argv[0] in ("schedule", "simulate"):
    time.sleep(600)
"""
)
COMMAND = (sys.executable, "-c", STAND_IN)


@pytest.fixture
def demo(tmp_path: Path) -> Demo:
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    home = tmp_path / "demo"
    home.mkdir()
    return Demo(home, 20, 40, 1, 7, ports[0], ports[1], exit_after_ready=True)


def start(demo: Demo) -> tuple[int, str]:
    output = io.StringIO()
    environ = os.environ | {"PINGFEED_LAKE_URL": "file:///elsewhere", "PINGFEED_HOME": str(demo.home)}
    code = run(demo, Console(file=output, width=200), environ, lambda: NOW_MS, COMMAND)
    return code, output.getvalue()


def asked(demo: Demo) -> list[str]:
    lines = (demo.home / "asked.txt").read_text().splitlines()
    (demo.home / "asked.txt").unlink()
    return [line.split(maxsplit=1)[1] for line in lines]


def pids(demo: Demo) -> list[int]:
    return [int(line.split()[0]) for line in (demo.home / "asked.txt").read_text().splitlines()]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_the_first_run_takes_every_step_in_order_and_the_second_none(demo: Demo) -> None:
    code, output = start(demo)
    history, *others = asked(demo)
    assert code == 0
    assert history.startswith(f"simulate history --home {demo.home} --until {to_iso(UNTIL_MS)}")
    assert "--lake" not in history, "the demo has its own lake, whatever the shell has set"
    assert others[:3] == ["etl", "train", "tick --all"]
    assert sorted(line.split()[1] for line in others[3:]) == ["feed", "ingest"]
    assert "user-00" in output
    assert output.count("curl -s") == 4
    assert f"{demo.feed}/docs" in output

    code, output = start(demo)
    assert code == 0
    assert sorted(line.split()[:2] for line in asked(demo)) == [["serve", "feed"], ["serve", "ingest"]]


def test_prepare_creates_the_installations_world_and_serves_nothing(demo: Demo) -> None:
    code, _ = start(dataclasses.replace(demo, prepare=True))
    history, *jobs = asked(demo)
    assert code == 0
    assert history.endswith("--lake /elsewhere")
    assert jobs == ["etl --wait 600", "tick --all --wait 600", "train --wait 600"]


def test_an_interrupted_first_run_resumes(demo: Demo) -> None:
    (demo.home / "fail-train").touch()
    with pytest.raises(ChildFailed, match=r"train exited with code 1(.|\n)*the reason why train failed"):
        start(demo)
    assert [line.split()[0] for line in asked(demo)] == ["simulate", "etl", "train"]
    (demo.home / "fail-train").unlink()
    start(demo)
    assert [line.split()[0] for line in asked(demo)][:2] == ["train", "tick"]


def test_a_home_holds_one_world(demo: Demo) -> None:
    (demo.home / "world.json").write_bytes(encode(Spec(users=20, pings=41, days=1, until_ms=UNTIL_MS)))
    with pytest.raises(InvalidInput, match="pings 41, not 40"):
        start(demo)


def test_a_port_in_use_is_reported_before_any_work(demo: Demo) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", demo.feed_port))
        taken.listen()
        with pytest.raises(Busy, match=f"port {demo.feed_port} on 127.0.0.1 is taken .*--feed-port"):
            start(demo)
    assert not (demo.home / "asked.txt").exists()


def test_a_service_that_cannot_start_ends_the_demo_and_the_other_service(demo: Demo) -> None:
    (demo.home / "fail-serve").touch()
    with pytest.raises(ChildFailed, match="the reason why serve failed"):
        start(demo)
    assert not any(alive(pid) for pid in pids(demo))


@pytest.fixture
def running(demo: Demo) -> Iterator["subprocess.Popen[bytes]"]:
    """A demo in a process of its own, serving, after a first run."""
    start(demo)
    (demo.home / "asked.txt").unlink()
    program = (
        "import os, sys, pathlib; from rich.console import Console; from simulator.demo import Demo, run, welcome;"
        f"demo = Demo(pathlib.Path({str(demo.home)!r}), 20, 40, 1, 7, {demo.ingest_port}, {demo.feed_port});"
        f"sys.exit(run(demo, Console(), os.environ, lambda: {NOW_MS}, (sys.executable, '-c', sys.argv[1])))"
    )
    process = subprocess.Popen([sys.executable, "-c", program, STAND_IN], stdout=subprocess.PIPE)
    until(lambda: (demo.home / "asked.txt").exists() and " schedule" in (demo.home / "asked.txt").read_text())
    yield process
    if process.poll() is None:
        process.terminate()
        process.communicate(timeout=30)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_ends_every_child_and_reports_it(
    demo: Demo, running: "subprocess.Popen[bytes]", number: signal.Signals
) -> None:
    children = pids(demo)
    commands = {line.split()[0] for line in asked(demo)}
    assert commands == {"serve", "tick", "simulate", "schedule"}
    running.send_signal(number)
    output = running.communicate(timeout=30)[0].decode()
    assert running.returncode == 0
    assert "stopped schedule, live, feed, ingest" in output
    assert not any(alive(pid) for pid in children)


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulator.processes._STOP_S", 0.2)
    deaf = "import signal as s, time; s.signal(s.SIGTERM, s.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    children = Children(os.environ, tmp_path, [sys.executable, "-c", deaf])
    children.start("deaf", [])
    until(lambda: children.log("deaf").read_text() == "deaf\n")
    assert children.stop() == ["deaf"]
    assert children.stop() == []


def commands(demo: Demo, respond: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The events that the printed commands send, where the n-th feed is `respond(n)`."""
    world, asked = World.build(Spec(users=20, pings=40, days=1, until_ms=UNTIL_MS)), []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.params["user_id"])
        return respond(len(asked))  # type: ignore[no-any-return]

    monkeypatch.setattr("httpx.Client", partial(httpx.Client, transport=httpx.MockTransport(answer)))
    lines = [line for line in welcome(world, demo, NOW_MS) if line.startswith("curl")]
    events: list[dict[str, str]] = [json.loads(found[1]) for line in lines if (found := re.search(r"-d '(.*?)'", line))]
    assert {event["user_id"] for event in events} == set(asked)
    return events


def test_the_commands_hide_what_the_feed_holds_and_follow_whom_the_user_does_not(
    demo: Demo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rotating(number: int) -> httpx.Response:
        pings = [number, 8, 9, 10]
        items = [{"ping_id": f"p{n}", "creator_id": {9: "c8", 10: "c10"}.get(n, f"c{n}")} for n in pings]
        return httpx.Response(200, json={"items": items})

    world = LakeWorld(demo.home)
    user = commands(demo, rotating, monkeypatch)[0]["user_id"]
    world.land(
        [row("follow", NOW_MS, user_id=user, creator_id="c4"), row("follow", NOW_MS, user_id="x", creator_id="c10")]
    )
    follow, hide = commands(demo, rotating, monkeypatch)
    assert hide["ping_id"] == "p8", "the first of those that every feed holds"
    assert follow["creator_id"] == "c10", "c8 made the ping, c4 is followed"


@pytest.mark.parametrize("body", ["", "[]", '{"items":[]}', '{"error":{}}'])
def test_without_a_feed_the_commands_have_the_users_favourites(
    demo: Demo, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow, hide = commands(demo, lambda _: httpx.Response(200, text=body), monkeypatch)
    assert hide["ping_id"].startswith("ping-")
    assert follow["creator_id"].startswith("creator-")
