"""A Docker engine from a test: its command, the images of this tree, and compositions of a project of their own."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from pingfeed.settings import Settings, load
from tests.journeys.conftest import wait_for
from tests.servers import AWS_ENVIRONMENT, ROOT, free_port, lacking

IMAGES: Final = ("ingest", "feed", "batch")
BUILD_S: Final = 900
UP_S: Final = 300
_OVERRIDE: Final = Path(__file__).with_name("override.yml")


def image(name: str) -> str:
    """The tag that the composition gives a deployable's image."""
    return f"pingfeed-{name}"


def docker(*words: str, seconds: float = 120) -> str:
    """Run `docker words...`; its output. Fails with what it said on standard error."""
    done = subprocess.run(["docker", *words], cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, f"docker {' '.join(words)}: {done.stderr[-4000:]}"
    return done.stdout


@cache
def require_engine() -> None:
    """Skip (or fail, where everything is required) without an engine that has Compose v2."""
    if shutil.which("docker") is None:
        lacking("there is no docker command")
    for words in (["info"], ["compose", "version"]):
        if subprocess.run(["docker", *words], capture_output=True, timeout=60, check=False).returncode:
            lacking(f"docker {' '.join(words)} fails: is the engine running, with Compose v2?")


class Composition:
    """docker-compose.yml as a project of this test's own, on ports of its own; `environ` fills in its variables."""

    def __init__(self, project: str, profile: str = "", **environ: str) -> None:
        self.ports = {name: free_port() for name in ("INGEST_PORT", "FEED_PORT", "AWS_PORT", "CACHE_PORT")}
        self._environ = {**os.environ, **{name: str(port) for name, port in self.ports.items()}, **environ}
        files = ("-f", str(ROOT / "docker-compose.yml"), "-f", str(_OVERRIDE))
        self._command = ["docker", "compose", "-p", project, *files, *(("--profile", profile) if profile else ())]
        self.web = httpx.Client(timeout=30, trust_env=False)

    @property
    def ingest(self) -> str:
        """Where ingest answers."""
        return f"http://127.0.0.1:{self.ports['INGEST_PORT']}"

    @property
    def feed(self) -> str:
        """Where the feed answers."""
        return f"http://127.0.0.1:{self.ports['FEED_PORT']}"

    def run(self, *words: str, seconds: float = UP_S) -> str:
        """Run `docker compose words...`; its output. Fails with the end of every service's log."""
        done = self._compose(*words, seconds=seconds)
        if done.returncode:
            logs = self._compose("logs", "--no-color", "--tail", "15", seconds=60).stdout
            pytest.fail(f"compose {' '.join(words)}: {done.stderr[-4000:]}\n{logs[-12_000:]}")
        return done.stdout

    def _compose(self, *words: str, seconds: float) -> "subprocess.CompletedProcess[str]":
        command = [*self._command, *words]
        return subprocess.run(command, cwd=ROOT, env=self._environ, capture_output=True, text=True, timeout=seconds)

    def up(self, *services: str) -> None:
        """Bring services up, with all that they depend on; return when they are healthy."""
        self.run("up", "--detach", "--wait", *services)

    def down(self) -> None:
        """Remove containers, network and volumes."""
        self.run("down", "--volumes", "--timeout", "5", "--remove-orphans")
        self.web.close()

    def pingfeed(self, *words: str, seconds: float = 240) -> str:
        """Run `pingfeed words...` beside the scheduler, with its settings."""
        return self.run("exec", "-T", "batch", "pingfeed", *words, seconds=seconds)

    def inspect(self, service: str) -> dict[str, Any]:
        """What the engine knows of a service's container."""
        (container,) = self.run("ps", "--all", "--quiet", service).split()
        (found,) = json.loads(docker("inspect", container))
        return dict(found)

    def await_ready(self, seconds: float = UP_S) -> None:
        """Wait until both services are ready."""
        for url in (self.ingest, self.feed):
            wait_for(lambda url=url: self._ready(url), f"{url} to be ready", seconds)  # type: ignore[misc]

    def _ready(self, url: str) -> bool:
        try:
            return self.web.get(f"{url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def settings(self, home: Path) -> Settings:
        """The composition's settings, for adapters of this process: the same parts at their published ports."""
        environ = self.inspect("batch")["Config"]["Env"]
        published = f"127.0.0.1:{self.ports['CACHE_PORT']}"
        ours = [line.replace("cache:6379", published) for line in environ if line.startswith("PINGFEED_")]
        return load(dict(line.split("=", 1) for line in ours) | {"PINGFEED_HOME": str(home)})

    def aws_environment(self) -> Mapping[str, str]:
        """What AWS's libraries in this process need to reach the composition's emulator."""
        keys = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
        return AWS_ENVIRONMENT | keys | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.ports['AWS_PORT']}"}


def build(names: Sequence[str] = IMAGES) -> None:
    """Build the images of this tree."""
    for name in names:
        docker("build", "--quiet", "--target", name, "--tag", image(name), ".", seconds=BUILD_S)
