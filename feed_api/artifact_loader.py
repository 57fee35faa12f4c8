"""Keeps what is live current: looks at the pointers every few seconds and swaps in what was published.

Loading happens on a thread; the swap is one assignment, so requests that have begun keep what they took and the next
ones take the new. What is damaged or of another feature digest is refused, logged and counted, and the old one goes on
serving; it is tried again after a while, in case it is put again under the same name.
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
from feed_api.serving_state import Live, nothing_live
from pingfeed.core.errors import FormatError, InvalidInput, NotFound, PingfeedError
from pingfeed.core.features import FeatureSet
from pingfeed.core.ranker import Pointer, Ranker, load, model_key, pointer_key, snapshot_key
from pingfeed.core.snapshot import Snapshot
from pingfeed.ports import Artifacts

log = logging.getLogger(__name__)

RETRY_REFUSED_S: Final = 60.0


class Loader:
    """Holds `live`, the state that requests take, and brings it up to date."""

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
        self._refused: dict[str, tuple[str, float]] = {}
        self.live: Live = nothing_live(features)

    async def refresh(self) -> None:
        """Look at both pointers and take what is new; a store that does not answer changes nothing."""
        await self._follow("snapshot", self._take_snapshot)
        await self._follow("model", self._take_model)

    async def _follow(self, what: str, take: Callable[[str], Awaitable[None]]) -> None:
        pointed = ""
        try:
            pointed = await self._pointed(what)
            if pointed in ("", self._current.get(what)) or self._lately_refused(what, pointed):
                return
            await take(pointed)
        except (FormatError, NotFound, InvalidInput) as error:
            self._refuse(what, pointed, error)
        except PingfeedError as error:
            log.warning("the live %s was not looked up: %s", what, error.message)
        else:
            self._current[what] = pointed
            self._metrics.swapped(what)
            log.info("%s %s is live", what, pointed)

    async def _pointed(self, what: str) -> str:
        """The artifact that the pointer names, empty where nothing was published."""
        try:
            data = await self._artifacts.get(pointer_key(self._features.digest, what))
        except NotFound:
            return ""
        try:
            return msgspec.json.decode(data, type=Pointer).current
        except msgspec.DecodeError as error:
            raise FormatError(f"the {what} pointer is damaged: {error}") from error

    async def _take_model(self, model_id: str) -> None:
        manifest = await self._artifacts.get(model_key(model_id, "manifest.json"))
        text = await self._artifacts.get(model_key(model_id, "model.txt"))
        ranker = await asyncio.to_thread(_load_model, manifest, text, self._features)
        self.live = self.live.with_model(ranker)

    async def _take_snapshot(self, folder: str) -> None:
        if not folder.partition("-")[0].isdecimal():
            raise FormatError(f"the snapshot pointer names {folder!r}, which is no tick")
        path = await self._artifacts.fetch(snapshot_key(folder))
        snapshot = await asyncio.to_thread(_open_snapshot, path, self._features.digest)
        self.live = self.live.with_snapshot(snapshot)

    def _lately_refused(self, what: str, pointed: str) -> bool:
        refused, until = self._refused.get(what, (None, 0.0))
        return refused == pointed and self._monotonic() < until

    def _refuse(self, what: str, pointed: str, error: PingfeedError) -> None:
        if self._lately_refused(what, pointed):
            return
        self._refused[what] = pointed, self._monotonic() + RETRY_REFUSED_S
        self._metrics.refused(what)
        log.error("%s %s was refused: %s", what, pointed or "pointer", error.message)


def _load_model(manifest: bytes, text: bytes, features: FeatureSet) -> Ranker:
    """The ranker, having scored once: LightGBM refuses a wrong number of features only then."""
    ranker = load(manifest, text, features)
    ranker.predict(np.zeros((1, len(features.all)), np.float32))
    return ranker


def _open_snapshot(path: Path, digest: str) -> Snapshot:
    """The snapshot, its features read once, so that no request waits for the disk."""
    try:
        snapshot = Snapshot.open(path, digest)
    except OSError as error:
        raise NotFound(f"the snapshot's file is not readable: {error.strerror}") from error
    snapshot.values.max(initial=0)
    snapshot.facet_values.max(initial=0)
    return snapshot
