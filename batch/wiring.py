"""Builds the dependencies of every batch step from the settings."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
from rich.console import Console

from batch.engine import Engine
from batch.lake import tombstones
from batch.lake.lease import ANOTHER, acquire
from batch.lake.tables import Tables
from batch.ticks import Ticks
from pingfeed.adapters import registry
from pingfeed.core.clock import Clock, system_clock
from pingfeed.core.errors import Busy, NotFound
from pingfeed.core.features import FeatureSet
from pingfeed.core.integrity import UNREADABLE
from pingfeed.core.ranker import Pointer, pointer_key
from pingfeed.ports import Artifacts, CandidateStore, Lease, UserSignals
from pingfeed.settings import Settings

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
NEEDS: Final = ("lake_url", "artifacts_url", "candidates_url", "cache_url", "lease_url")
"""The parts that must be reachable before it starts (`pingfeed/checks.py`)."""


class Progress:
    """Shows each step and its duration on standard error, so that results can be piped."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet)

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Show `what` while it runs and its duration when it has finished."""
        began = time.monotonic()
        with self._console.status(what):
            yield
        self._console.print(f"  {what}  [dim]{time.monotonic() - began:.1f} s[/dim]")

    def say(self, sentence: str) -> None:
        """Print one line."""
        self._console.print(sentence)


@dataclass(frozen=True)
class Batch:
    """The batch side of one installation. Each step opens async ports itself (`asyncio.run`)."""

    settings: Settings
    tables: Tables
    engine: Engine
    ticks: Ticks
    features: FeatureSet
    clock: Clock
    """The time as of which it runs: the machine's, or one of the past (`--at`)."""
    wall_clock: Clock
    progress: Progress
    open_artifacts: Callable[[], Artifacts]
    open_candidates: Callable[[], CandidateStore]
    open_signals: Callable[[], UserSignals]
    open_lease: Callable[[], Lease]

    def with_artifacts(self, step: Callable[[Artifacts], Awaitable[_T]]) -> _T:
        """The result of an async step over the artifacts, which are open while it runs."""

        async def run() -> _T:
            artifacts = self.open_artifacts()
            try:
                return await step(artifacts)
            finally:
                await artifacts.close()

        return asyncio.run(run())

    @property
    def present(self) -> int:
        """The tick that it is by the machine's clock. A run, snapshot or state of a later one is ahead of the clock."""
        return self.ticks.of(self.wall_clock())

    @contextmanager
    def lease(self, wait_s: float = 0) -> Iterator[None]:
        """Allow one run at a time on this lake; Busy if another one does not finish within `wait_s`, or takes over."""
        self.tables.refresh()
        held = acquire(self.open_lease(), self.tables.versions.newest_fence(), wait_s)
        with held.kept():
            self.tables.versions.claim(held)
            try:
                yield
            finally:
                self.tables.versions.end()


async def read_json(artifacts: Artifacts, key: str, kind: type[_T], absent: _T) -> _T:
    """A JSON artifact; `absent` if there is none or it is damaged: the next write replaces it."""
    return _decoded(key, await _read(artifacts, key), kind, absent)


async def read_pointer(artifacts: Artifacts, digest: str, name: str) -> Pointer | None:
    """The pointer to what is live for a feature digest (`model` or `snapshot`), None if there is none."""
    return await read_json(artifacts, pointer_key(digest, name), Pointer | None, None)  # type: ignore[arg-type]


async def update_names(artifacts: Artifacts, key: str, change: Callable[[list[str]], list[str]]) -> None:
    """Change a list of names that other processes may change at the same time."""
    while True:
        seen = await _read(artifacts, key)
        after = msgspec.json.encode(change(_decoded(key, seen, list[str], [])))
        if after == seen or await artifacts.swap(key, after, seen):
            return


async def move_pointer(
    batch: Batch,
    artifacts: Artifacts,
    digest: str,
    name: str,
    current: str,
    replaces: Callable[[str], bool] = lambda _: True,
) -> None:
    """Make `current` the live one and what was live the previous one, unless that one is newer (`replaces`).

    Busy if another run moves the pointer or takes the lease meanwhile: the pointer that is replaced must still be the
    one that was read before the lease was verified.
    """
    key = pointer_key(digest, name)
    seen = await _read(artifacts, key)
    live: Pointer | None = _decoded(key, seen, Pointer | None, None)  # type: ignore[arg-type]
    if live is not None and (live.current == current or not replaces(live.current)):
        return
    await asyncio.to_thread(batch.tables.versions.verify)
    pointer = Pointer(current, live.current if live else None)
    if not await artifacts.swap(key, msgspec.json.encode(pointer), seen):
        raise Busy(ANOTHER)


async def _read(artifacts: Artifacts, key: str) -> bytes | None:
    try:
        return await artifacts.get(key)
    except NotFound:
        return None


def _decoded(key: str, data: bytes | None, kind: type[_T], absent: _T) -> _T:
    try:
        return absent if data is None else msgspec.json.decode(data, type=kind)
    except UNREADABLE as error:
        _log.error("%s is damaged and counts as absent: %s", key, error)
        return absent


def build(
    settings: Settings, *, clock: Clock = system_clock, wall_clock: Clock = system_clock, quiet: bool = False
) -> Batch:
    """The batch side for these settings."""
    return Batch(
        settings=settings,
        tables=Tables(registry.open_lake(settings), tombstones.pending, wall_clock),
        engine=Engine(),
        ticks=Ticks(settings.tick_ms),
        features=settings.features,
        clock=clock,
        wall_clock=wall_clock,
        progress=Progress(quiet=quiet),
        open_artifacts=lambda: registry.open_artifacts(settings),
        open_candidates=lambda: registry.open_candidates(settings),
        open_signals=lambda: registry.open_signals(settings),
        open_lease=lambda: registry.open_lease(settings),
    )
