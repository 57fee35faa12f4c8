"""One machine as docs/one-machine.md builds it: a wheel, the units' own commands, Caddy with TLS, backup, upgrade.

Containers here have no systemd as PID 1: a unit's ExecStart line runs as written, with its user, its environment and
its working directory. What the kernel would enforce of the hardening only a machine shows; that the services write
nowhere but to their folders is checked.
"""

import hashlib
import json
import shlex
import threading
import time
import tomllib
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, Final

import httpx
import pytest

from tests.containers.engine import BUILD_S, docker, require_engine
from tests.journeys.conftest import wait_for
from tests.servers import ROOT, free_port
from tests.unit.test_one_machine import UNITS, service_of

KEY, OPERATOR_KEY = "key-of-the-app", "key-of-an-operator"
HASHES: Final = {
    "PINGFEED_API_KEY_HASHES": hashlib.sha256(KEY.encode()).hexdigest(),
    "PINGFEED_OPERATOR_KEY_HASHES": hashlib.sha256(OPERATOR_KEY.encode()).hexdigest(),
}
IMAGE: Final = "pingfeed-machine"
BACKUPS: Final = "/var/backups/pingfeed"
SERVICES: Final = ("ingest", "feed", "schedule")


VERSION: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
NEXT: Final = "99.0.0"


@cache
def build() -> None:
    """Build this tree's image; the dependencies' layer is made once for each lock."""
    versions = ("--build-arg", f"VERSION={VERSION}", "--build-arg", f"NEXT={NEXT}")
    file = ("--file", "tests/containers/machine.Dockerfile")
    docker("build", "--quiet", *versions, *file, "--tag", IMAGE, ".", seconds=BUILD_S)


class Machine:
    """A container with pingfeed installed, and its services, which a test starts and stops."""

    def __init__(self, volume: str) -> None:
        self.port = free_port()
        mounts = ("--volume", f"{volume}:{BACKUPS}", "--tmpfs", "/tmp")
        publish = ("--publish", f"127.0.0.1:{self.port}:443")
        self.id = docker("run", "--detach", "--init", *mounts, *publish, IMAGE, "sleep", "infinity").strip()
        self.web = httpx.Client(
            base_url=f"https://localhost:{self.port}",
            headers={"X-API-Key": KEY},
            verify=False,
            timeout=30,
            trust_env=False,
        )
        settings = HASHES | {"PINGFEED_SINK_FLUSH_SECONDS": "1", "PINGFEED_EXPLORE_SHARE": "0"}
        settings["PINGFEED_FEED_BUDGET_MS"] = "5000"  # A slow moment of a busy machine is not what this is about.
        self.sh("cat >> /etc/pingfeed/env <<E\n" + "\n".join(f"{k}={v}" for k, v in settings.items()) + "\nE")
        self.sh("sed s/feed.example.com/localhost/ /src/deploy/one-machine/Caddyfile > /etc/caddy/Caddyfile")

    def sh(self, script: str, seconds: float = 120) -> str:
        """The output of a shell script, run as root."""
        return docker("exec", self.id, "sh", "-euc", script, seconds=seconds)

    def caddy(self) -> None:
        """Start Caddy as Debian's unit does."""
        command = "exec caddy run --environ --config /etc/caddy/Caddyfile > /tmp/caddy.log 2>&1"
        docker("exec", "--detach", "--user", "caddy", "--env", "HOME=/var/lib/caddy", self.id, "sh", "-c", command)

    def run(self, name: str, *, detach: bool = False) -> str:
        """Run a unit's ExecStart line."""
        unit = service_of(name)
        given = self.sh(f"cat {unit['EnvironmentFile'][0]}").splitlines()
        given = [*unit["Environment"], *(line for line in given if line and line[0] != "#")]
        options = [word for line in given for word in ("--env", line)]
        options += [
            "--user",
            unit["User"][0],
            "--workdir",
            unit["WorkingDirectory"][0],
            *(["--detach"] if detach else []),
        ]
        line = f"umask {unit['UMask'][0]}; echo $$ > /tmp/{name}.pid; exec {unit['ExecStart'][0]}"
        line += f" >> /tmp/{name}.log 2>&1" if detach else ""
        return docker("exec", *options, self.id, "sh", "-c", line)

    def start(self, *names: str) -> None:
        for name in names:
            self.run(name, detach=True)

    def stop(self, *names: str) -> None:
        """SIGTERM, and wait until they are gone."""
        for name in names:
            self.sh(f"kill -TERM $(cat /tmp/{name}.pid)")
        for name in names:
            wait_for(lambda name=name: self.version_of(name) == "", f"{name} to stop")  # type: ignore[misc]

    def version_of(self, name: str) -> str:
        """The version that a running service is of; empty while it does not run."""
        found = self.sh(f"tr '\\0' ' ' < /proc/$(cat /tmp/{name}.pid)/cmdline || true")
        return found.split("/opt/pingfeed/")[1].split("/")[0] if found else ""

    def pingfeed(self, *words: str) -> str:
        """The installed command, as an operator runs it."""
        return self.sh("pingfeed " + shlex.join(words), seconds=300)

    def await_ready(self) -> None:
        for path in ("/readyz", "/ingest/readyz"):
            wait_for(lambda path=path: self.status(path) == 200, f"{path} behind Caddy")  # type: ignore[misc]

    def status(self, path: str, **more: Any) -> int:
        with suppress(httpx.TransportError):
            return self.web.get(path, **more).status_code
        return 0

    def send(self, events: list[dict[str, Any]]) -> list[str]:
        """Send events; their ids once they are acknowledged."""
        ids = [str(uuid.uuid4()) for _ in events]
        body = {"events": [event | {"event_id": one} for event, one in zip(events, ids, strict=True)]}
        answer = self.web.post("/track-events", json=body)
        assert answer.status_code == 202, answer.text
        assert answer.json()["rejected"] == []
        return ids

    def feed(self, user: str) -> dict[str, Any]:
        answer = self.web.get("/get-feed", params={"user_id": user})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def landed(self) -> Counter[str]:
        """How often each event is in the raw files."""
        code = "import pyarrow.dataset as d; print(*d.dataset('/var/lib/pingfeed/lake/events').to_table()['event_id'])"
        return Counter(self.sh(f'/opt/pingfeed/current/bin/python -c "{code}"').split())

    def reconciled(self) -> list[dict[str, Any]]:
        """Today's and yesterday's counts once nothing waits."""

        def settled() -> list[dict[str, Any]] | None:
            days = json.loads(self.pingfeed("reconcile", "--days", "2", "--json"))
            return None if any(day["spooled"] for day in days) else days

        return wait_for(settled, "the spools to be delivered")


@pytest.fixture(scope="module")
def volume() -> Iterator[str]:
    require_engine()
    build()
    name = docker("volume", "create").strip()
    yield name
    docker("volume", "rm", "--force", name)


@contextmanager
def machine(volume: str) -> Iterator[Machine]:
    found = Machine(volume)
    try:
        yield found
    except BaseException as error:
        error.add_note(found.sh("tail -n 20 /tmp/*.log || true"))
        raise
    finally:
        found.web.close()
        docker("rm", "--force", "--volumes", found.id)


@contextmanager
def meanwhile(step: Callable[[], object], every_s: float) -> Iterator[list[Exception]]:
    """Repeat a step at a steady rate in a thread; yields its failures."""
    failures: list[Exception] = []
    ended = threading.Event()

    def work() -> None:
        due = time.monotonic()
        while not ended.is_set():
            try:
                step()
            except Exception as error:  # noqa: BLE001  # the test looks at it
                failures.append(error)
            due += every_s
            ended.wait(max(0.0, due - time.monotonic()))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield failures
    finally:
        ended.set()
        thread.join()


def created(number: int) -> dict[str, Any]:
    topics = [("art", "chess", "sport")[number % 3]]
    return {"event_type": "ping_created", "ping_id": f"p{number}", "creator_id": f"c{number % 7}", "topics": topics}


def likes(count: int) -> list[dict[str, Any]]:
    return [{"event_type": "like", "user_id": f"u{at}", "ping_id": f"p{at}"} for at in range(count)]


def test_installed_units_pass_systemd_of_this_debian(volume: str) -> None:
    with machine(volume) as one:
        for unit in UNITS:
            one.sh(f"systemd-analyze verify --man=no {unit}")
            if unit.endswith(".service"):
                one.sh(f"systemd-analyze security --offline=yes --threshold=30 --no-pager {unit}")


def test_from_the_wheel_to_a_feed_behind_tls_then_backup_restore_and_upgrade(volume: str) -> None:
    with machine(volume) as one, machine(volume) as other:
        one.caddy()
        one.start("ingest", "feed")
        one.await_ready()
        _check_the_edge(one)
        one.send([created(number) for number in range(120)])
        one.reconciled()
        one.start("schedule")  # Its first tick is due at once.
        wait_for(lambda: len(one.feed("ann")["items"]) == 10, "a feed of ten pings")
        acknowledged: list[str] = []
        with meanwhile(lambda: acknowledged.extend(one.send(likes(20))), every_s=0.1) as failures:
            time.sleep(3)
            before = list(acknowledged)
            one.run("backup")
            time.sleep(1)
        assert failures == []
        assert len(before) > 200

        other.pingfeed("restore", BACKUPS)
        other.caddy()
        other.start("ingest", "feed")
        other.await_ready()
        for day in other.reconciled():
            assert (day["missing"], day["duplicates"], day["accepted"]) == (0, 0, day["landed"])
        found = other.landed()
        assert [one for one in before if found[one] != 1] == []
        assert max(found.values()) == 1
        other.stop("ingest", "feed")

        one.reconciled()
        one.run("backup")
        expected = [item["ping_id"] for item in one.feed("u3")["items"]]
        other.pingfeed("restore", BACKUPS, "--force")
        other.start("ingest", "feed")
        other.await_ready()
        assert [item["ping_id"] for item in other.feed("u3")["items"]] == expected

        _check_upgrade(one)
        elsewhere = " ".join(f"-not -path '{path}*'" for path in ("/proc/", "/tmp/", "/var/lib/pingfeed", BACKUPS))
        assert one.sh(f"find / -xdev -user pingfeed {elsewhere}").split() == [], "units may write nowhere else"


def _check_the_edge(one: Machine) -> None:
    """TLS, who may call, what is published, and the limits."""
    assert one.web.get("/get-feed", params={"user_id": "ann"}, headers={"X-API-Key": "wrong"}).status_code == 401
    assert [one.status(path) for path in ("/docs", "/ingest/docs", "/healthz", "/ingest/healthz")] == [200] * 4
    assert one.web.post("/track-event", content=b"x" * (1 << 20) + b"y").status_code == 413
    assert one.status("/healthz", headers={"X-Long": "x" * 40_000}) in (0, 431)
    operator = {"X-API-Key": OPERATOR_KEY}
    hidden = ("/metrics", "/ingest/metrics", "/ingest/ingest/metrics", "/ingest//metrics")
    assert {one.status(path, headers=operator) for path in hidden} == {404}
    fetch = "from urllib.request import *; print(urlopen(Request('http://127.0.0.1:%d/metrics', headers=%r)).status)"
    for port in (8000, 8001):
        assert one.sh(f'python3 -c "{fetch % (port, operator)}"').strip() == "200"
        with pytest.raises(AssertionError, match="401"):
            one.sh(f'python3 -c "{fetch % (port, {})}"')


def _check_upgrade(one: Machine) -> None:
    """Upgrade and rollback under requests: Caddy holds feeds while a service restarts; a POST may get a 502, once."""
    ids: list[str] = []

    def step() -> None:
        one.feed("ann")
        ids.extend(one.send(likes(1)))

    with meanwhile(step, every_s=0.2) as failures:
        for version in (NEXT, VERSION):
            one.sh(f"ln -sfn {version} /opt/pingfeed/current")
            one.stop(*SERVICES)
            one.start(*SERVICES)
            one.await_ready()
            assert {one.version_of(name) for name in SERVICES} == {version}
            assert len(one.feed("ann")["items"]) == 10
    assert [one for one in failures if "502 == 202" not in str(one)] == []
    one.reconciled()
    found = one.landed()
    assert [one for one in ids if found[one] != 1] == []
