"""Loads published models and snapshots: polls their pointers every few seconds and swaps in what is new.

Loading runs on a thread and the swap is one assignment: requests in flight finish with the old artifacts. A damaged
artifact or one of another feature digest is rejected, logged and counted, and the old one keeps serving. It is retried
after a while, in case it is uploaded again under the same name.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from feed_api.metrics import FeedMetrics
from feed_api.state import Live, nothing_live
from pingfeed.core.errors import FormatError, InvalidInput, NotFound, PingfeedError
from pingfeed.core.features import FeatureSet
from pingfeed.core.ranker import Pointer, Ranker, load, model_key, pointer_key, snapshot_key
from pingfeed.core.snapshot import Snapshot
from pingfeed.ports import Artifacts

log = logging.getLogger(__name__)

RETRY_REJECTED_S: Final = 60.0


class ArtifactLoader:
    """Keeps `live`, the state that requests work with, up to date."""

    def __init__(
        self,
        artifacts: Artifacts,
        features: FeatureSet,
        metrics: FeedMetrics,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._artifacts, self._features, self._metrics = artifacts, features, metrics
        self._monotonic = monotonic
        self._current: dict[str, str] = {}
        self._rejected: dict[str, tuple[str, float]] = {}
        self.live: Live = nothing_live(features)

    async def refresh(self) -> None:
        """Read both pointers and load what is new; an unavailable store changes nothing."""
        await self._follow("snapshot", self._load_snapshot)
        await self._follow("model", self._load_model)

    async def _follow(self, kind: str, load_named: Callable[[str], Awaitable[None]]) -> None:
        name = ""
        try:
            name = await self._pointed(kind)
            if name in ("", self._current.get(kind)) or self._recently_rejected(kind, name):
                return
            await load_named(name)
        except (FormatError, NotFound, InvalidInput) as error:
            self._reject(kind, name, error)
        except PingfeedError as error:
            log.warning("could not look up the live %s: %s", kind, error.message)
        else:
            self._current[kind] = name
            self._metrics.loaded.labels(kind).inc()
            log.info("%s %s is live", kind, name)

    async def _pointed(self, kind: str) -> str:
        """The name in the pointer, empty if nothing is published."""
        try:
            data = await self._artifacts.get(pointer_key(self._features.digest, kind))
        except NotFound:
            return ""
        try:
            return msgspec.json.decode(data, type=Pointer).current
        except msgspec.DecodeError as error:
            raise FormatError(f"the {kind} pointer is damaged: {error}") from error

    async def _load_model(self, model_id: str) -> None:
        manifest = await self._artifacts.get(model_key(model_id, "manifest.json"))
        text = await self._artifacts.get(model_key(model_id, "model.txt"))
        ranker = await asyncio.to_thread(_open_model, manifest, text, self._features)
        self.live = self.live.with_model(ranker)

    async def _load_snapshot(self, folder: str) -> None:
        if not folder.partition("-")[0].isdecimal():
            raise FormatError(f"the snapshot pointer names {folder!r}, which is not a tick")
        path = await self._artifacts.fetch(snapshot_key(folder))
        snapshot = await asyncio.to_thread(_open_snapshot, path, self._features.digest)
        self.live = self.live.with_snapshot(snapshot)

    def _recently_rejected(self, kind: str, name: str) -> bool:
        rejected, until = self._rejected.get(kind, (None, 0.0))
        return rejected == name and self._monotonic() < until

    def _reject(self, kind: str, name: str, error: PingfeedError) -> None:
        if self._recently_rejected(kind, name):
            return
        self._rejected[kind] = name, self._monotonic() + RETRY_REJECTED_S
        self._metrics.rejected.labels(kind).inc()
        log.error("rejected %s %s: %s", kind, name or "pointer", error.message)


def _open_model(manifest: bytes, text: bytes, features: FeatureSet) -> Ranker:
    """The ranker, after one prediction: LightGBM detects a wrong number of features only then."""
    ranker = load(manifest, text, features)
    ranker.predict(np.zeros((1, len(features.all)), np.float32))
    return ranker


def _open_snapshot(path: Path, digest: str) -> Snapshot:
    """The snapshot, with its features read once so that no request waits for the disk."""
    try:
        snapshot = Snapshot.open(path, digest)
    except OSError as error:
        raise NotFound(f"cannot read the snapshot's file: {error.strerror}") from error
    snapshot.values.max(initial=0)
    snapshot.facet_values.max(initial=0)
    return snapshot
