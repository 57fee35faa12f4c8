"""Loads published models and snapshots: polls their pointers every few seconds and swaps in what is new.

Loading runs on a thread and the swap is one assignment: requests in flight finish with the old artifacts. A file is
read whole and checked against its manifest before it is parsed. One that is damaged or of another feature digest is
rejected, logged and counted, and the one before it serves: the loaded one, after a start the pointer's previous one. It
is retried after a while, in case it is uploaded again under the same name.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

import numpy as np

from feed_api.metrics import FeedMetrics
from feed_api.state import Live, nothing_live
from pingfeed.core.errors import FormatError, NotFound, PingfeedError, Unavailable
from pingfeed.core.features import FeatureSet
from pingfeed.core.integrity import SnapshotManifest, read_manifest, verify
from pingfeed.core.ranker import Pointer, Ranker, load, model_key, pointer_key, snapshot_key
from pingfeed.core.snapshot import Snapshot
from pingfeed.ports import Artifacts

log = logging.getLogger(__name__)

RETRY_REJECTED_S: Final = 10.0


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
        self._retry_at: dict[tuple[str, str], float] = {}
        self._problems: dict[tuple[str, str], str] = {}
        self.live: Live = nothing_live(features)
        self.loading = 0
        """How many artifacts are being loaded now, their pointers having been read."""

    async def refresh(self) -> bool:
        """Read both pointers and load what is new; False if the store was unavailable, which changes nothing."""
        followed = self._follow("snapshot", self._load_snapshot), self._follow("model", self._load_model)
        return all(await asyncio.gather(*followed))

    def problem(self, kind: str) -> str | None:
        """Why what the `kind` pointer names is not live, None if it is."""
        return next((reason for (what, _), reason in self._problems.items() if what == kind), None)

    async def _follow(self, kind: str, load_named: Callable[[str], Awaitable[None]]) -> bool:
        """Load the first artifact of the pointer that can be loaded, unless it is live; False without an answer."""
        try:
            names = await self._pointed(kind)
            for name in names:
                if name == self._current.get(kind) or await self._load(kind, name, load_named):
                    break
        except Unavailable as error:
            self._metrics.refresh_failures.inc()
            log.warning("could not look up the live %s: %s", kind, error.message)
            return False
        except Exception as error:  # noqa: BLE001 - whatever the bytes are, the loader tries again
            self._reject(kind, "pointer", error)
        else:
            self._settle(kind, names)
        return True

    async def _pointed(self, kind: str) -> list[str]:
        """The names in the pointer, the one to be live first; none if nothing is published."""
        try:
            return Pointer.parse(await self._artifacts.get(pointer_key(self._features.digest, kind)), kind).names
        except NotFound:
            return []

    async def _load(self, kind: str, name: str, load_named: Callable[[str], Awaitable[None]]) -> bool:
        """Put an artifact live, False if it is rejected; Unavailable."""
        if self._recently_rejected(kind, name):
            return False
        self.loading += 1
        try:
            await load_named(name)
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001 - no damage may end the loader
            self._reject(kind, name, error)
            return False
        finally:
            self.loading -= 1
        self._current[kind] = name
        self._metrics.loaded.labels(kind).inc()
        log.info("%s %s is live", kind, name)
        return True

    async def _load_model(self, model_id: str) -> None:
        manifest = await self._artifacts.get(model_key(model_id, "manifest.json"))
        text = await self._artifacts.get(model_key(model_id, "model.txt"))
        ranker = await asyncio.to_thread(_open_model, manifest, text, self._features)
        self.live = self.live.with_model(ranker)

    async def _load_snapshot(self, folder: str) -> None:
        if not folder.partition("-")[0].isdecimal():
            raise FormatError(f"the snapshot pointer names {folder!r}, which is not a tick")
        manifest = await self._artifacts.get(snapshot_key(folder, "manifest.json"))
        data = await self._artifacts.get(snapshot_key(folder))
        snapshot = await asyncio.to_thread(_open_snapshot, manifest, data, self._features.digest)
        self.live = self.live.with_snapshot(snapshot)

    def _recently_rejected(self, kind: str, name: str) -> bool:
        return self._monotonic() < self._retry_at.get((kind, name), 0.0)

    def _reject(self, kind: str, name: str, error: Exception) -> None:
        """Count it, and log it unless it is the same as before."""
        if self._recently_rejected(kind, name):
            return
        self._retry_at[kind, name] = self._monotonic() + RETRY_REJECTED_S
        self._metrics.rejected.labels(kind).inc()
        reason = f"{kind} {name}: {error.message if isinstance(error, PingfeedError) else repr(error)}"
        if self._problems.get((kind, name)) != reason:
            log.error("rejected %s", reason)
        self._problems[kind, name] = reason

    def _settle(self, kind: str, names: list[str]) -> None:
        """Forget problems of what the pointer no longer names; all of them once its first name is live."""
        matter = [] if names and names[0] == self._current.get(kind) else names
        for key in [key for key in self._retry_at if key[0] == kind and key[1] not in matter]:
            del self._retry_at[key], self._problems[key]


def _open_model(manifest: bytes, text: bytes, features: FeatureSet) -> Ranker:
    """The ranker, after one prediction: LightGBM detects a wrong number of features only then."""
    ranker = load(manifest, text, features)
    ranker.predict(np.zeros((1, len(features.all)), np.float32))
    return ranker


def _open_snapshot(manifest: bytes, data: bytes, digest: str) -> Snapshot:
    """The snapshot, after its SHA-256 is checked."""
    verify(read_manifest(SnapshotManifest, manifest, "the snapshot"), data, "the snapshot")
    return Snapshot(data, digest)
