"""A release with other features takes over and is rolled back under load: no feed lacks anything.

The steps are those of `make deploy` and `make rollback` (`deploy/rollout.py`); here the platform is processes on one
home, and the alias is the address that the next request goes to. Only AWS can show its own alias move, with a canary.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from batch.jobs import tick
from batch.jobs.nightly import etl
from batch.training.train import train
from batch.wiring import build
from deploy.rollout import Release, other_slot, roll_out
from pingfeed.core.clock import system_clock
from pingfeed.core.feature_set import FeatureSet
from pingfeed.core.ranker import pointer_key
from pingfeed.settings import load
from simulator.lake import write_history
from simulator.world import Spec, World, user_id
from tests.journeys.conftest import COMMAND, Running, Services, services

__all__ = ["services"]
pytestmark = pytest.mark.real

TICK_MS = 900_000
USERS = 80
PER_SECOND = 20


class Processes:
    """A `rollout.Platform`: each release is a feed of its own, and the environment that ticks run in."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._environ: Mapping[str, str] = {}
        self._feeds: dict[str, Running] = {}
        self.steps: list[str] = []
        self.alias = ""

    def run_ticks_of(self, release: Release) -> None:
        self.steps.append("ticks")
        self._environ = environ_of(release)

    def tick_everyone(self) -> None:
        self.steps.append("tick")
        assert self._command("tick", "--all")["packets"] > USERS // 2

    def has_model(self, digest: str) -> bool:
        return (self._services.home / "artifacts" / pointer_key(digest, "model")).exists()

    def train(self) -> str:
        self.steps.append("train")
        return str(self._command("train")["sentence"])

    def serve(self, release: Release) -> None:
        self.steps.append("serve")
        if release.slot not in self._feeds:
            # A spool of its own, as a function has none to share.
            more = {"SPOOL_DIR": f"spool-{release.slot}", **environ_of(release)}
            self._feeds[release.slot] = self._services.start("feed", **more)
        self._environ, self.alias = environ_of(release), self._feeds[release.slot].url

    def _command(self, *words: str) -> dict[str, Any]:
        environ = self._services.environ | {f"PINGFEED_{name}": value for name, value in self._environ.items()}
        command = [sys.executable, "-c", COMMAND, *words, "--wait", "60", "--json"]
        done = subprocess.run(command, env=environ, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return dict(json.loads(done.stdout))


def environ_of(release: Release) -> Mapping[str, str]:
    """The variables in which releases differ, without their prefix."""
    return {"ATTRIBUTES": ATTRIBUTES[release.digest], "PACKET_SLOT": release.slot}


ATTRIBUTES = {FeatureSet(attributes=tuple(filter(None, [names]))).digest: names for names in ("", "length")}
OLD, NEW = (Release(digest, slot) for digest, slot in zip(ATTRIBUTES, ("a", other_slot("a")), strict=True))


class Load:
    """Requests to the alias at an even rate, each answered within a few seconds."""

    def __init__(self, platform: Processes) -> None:
        self._platform, self._over = platform, threading.Event()
        self.feeds: list[dict[str, Any]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._request, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        yield
        self._over.set()
        for thread in threads:
            thread.join()

    def _request(self, number: int) -> None:
        due, user = time.monotonic(), number
        with httpx.Client(timeout=30) as web:
            while not self._over.is_set():
                answer = web.get(f"{self._platform.alias}/get-feed", params={"user_id": user_id(user % USERS)})
                self.feeds.append({"status": answer.status_code, **answer.json()})
                user, due = user + 2, due + 2 / PER_SECOND
                time.sleep(max(0.0, due - time.monotonic()))

    def models(self) -> list[str]:
        """The models that served, in the order of their first and later turns."""
        served = [str(feed["model_id"]) for feed in self.feeds]
        return [model for before, model in zip([None, *served], served, strict=False) if model != before]


def world_with_a_release(services: Services, platform: Processes) -> None:
    """A small world whose old release serves."""
    services.environ |= {"PINGFEED_SINK_FLUSH_SECONDS": "0.2"}
    # A slow moment of a busy machine is not what this test is about.
    services.environ |= {"PINGFEED_FEED_BUDGET_MS": "5000"}
    now_tick = system_clock() // TICK_MS
    spec = Spec(seed=5, users=USERS, pings=500, days=6, until_ms=now_tick * TICK_MS, tick_ms=TICK_MS, feeds_per_day=3)
    write_history(World.build(spec), services.home / "lake")
    batch = build(load(services.environ), quiet=True)
    etl(batch, now_tick)
    train(batch, now_tick)
    tick.run(batch, now_tick, everyone=True)
    roll_out(platform, None, OLD, print)


def test_no_feed_is_degraded_by_a_release_with_other_features_or_by_its_rollback(services: Services) -> None:
    platform = Processes(services)
    world_with_a_release(services, platform)
    load, began = Load(platform), time.monotonic()
    with load.running():
        time.sleep(1)
        roll_out(platform, OLD, NEW, print)
        time.sleep(1)
        roll_out(platform, NEW, OLD, print, train=False)
        time.sleep(1)
    sys.stdout.write(f"{len(load.feeds)} feeds in {time.monotonic() - began:.0f} s\n")
    assert platform.steps == ["serve", "ticks", "tick", "train", "tick", "serve", "ticks", "tick", "serve"]
    assert {feed["status"] for feed in load.feeds} == {200}
    assert [feed["degraded"] for feed in load.feeds if feed["degraded"]] == []
    assert all(len(feed["items"]) == 10 for feed in load.feeds)
    first, second, third = load.models()
    assert first == third != second
    assert len(load.feeds) > 60

    # Why there are slots: packets of the new features in the running feed's own slot would degrade it.
    platform.run_ticks_of(Release(NEW.digest, OLD.slot))
    platform.tick_everyone()
    answer = httpx.get(f"{platform.alias}/get-feed", params={"user_id": user_id(7)}, timeout=30)
    assert answer.json()["degraded"] == ["candidates"]
