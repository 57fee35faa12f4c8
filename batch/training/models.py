"""Models in the artifact store: store, list, promote, roll back, load the live one."""

import asyncio
from typing import Final

import msgspec

from batch.wiring import Batch
from pingfeed.core.errors import InvalidInput, NotFound
from pingfeed.core.ranker import FallbackRanker, Manifest, Pointer, Ranker, load, model_key, pointer_key
from pingfeed.ports import Artifacts

_INDEX: Final = "models/index.json"


async def live_pointer(artifacts: Artifacts, digest: str) -> Pointer | None:
    """The pointer to the live model of a feature digest, None if there is none."""
    try:
        return msgspec.json.decode(await artifacts.get(pointer_key(digest, "model")), type=Pointer)
    except NotFound:
        return None


async def live_ranker(batch: Batch) -> Ranker:
    """The live model, else the fallback ranker: candidates are pre-scored by the ranker that serves."""
    artifacts = batch.open_artifacts()
    try:
        pointer = await live_pointer(artifacts, batch.features.digest)
        if pointer is None:
            return FallbackRanker(batch.features)
        manifest = await artifacts.get(model_key(pointer.current, "manifest.json"))
        return load(manifest, await artifacts.get(model_key(pointer.current, "model.txt")), batch.features)
    finally:
        await artifacts.close()


async def _index(artifacts: Artifacts) -> list[str]:
    try:
        found: list[str] = msgspec.json.decode(await artifacts.get(_INDEX), type=list[str])
    except NotFound:
        return []
    return found


def store(batch: Batch, manifest: Manifest, text: str) -> None:
    """Store a trained model and make it live if its manifest says so."""

    async def put() -> None:
        artifacts = batch.open_artifacts()
        try:
            await artifacts.put(model_key(manifest.model_id, "model.txt"), text.encode())
            await artifacts.put(model_key(manifest.model_id, "manifest.json"), msgspec.json.encode(manifest))
            known = [one for one in await _index(artifacts) if one != manifest.model_id]
            await artifacts.put(_INDEX, msgspec.json.encode([*known, manifest.model_id]))
            if manifest.live:
                await _point(artifacts, manifest.digest, manifest.model_id)
        finally:
            await artifacts.close()

    asyncio.run(put())


async def _point(artifacts: Artifacts, digest: str, model_id: str) -> None:
    live = await live_pointer(artifacts, digest)
    if live is None or live.current != model_id:
        pointer = Pointer(model_id, live.current if live else None)
        await artifacts.put(pointer_key(digest, "model"), msgspec.json.encode(pointer))


def listed(batch: Batch) -> list[tuple[Manifest, bool]]:
    """All trained models, newest last, and whether each is live."""

    async def read() -> list[tuple[Manifest, bool]]:
        artifacts = batch.open_artifacts()
        try:
            live = await live_pointer(artifacts, batch.features.digest)
            manifests = [await _manifest(artifacts, one) for one in await _index(artifacts)]
        finally:
            await artifacts.close()
        return [(one, live is not None and one.model_id == live.current) for one in manifests]

    return asyncio.run(read())


async def _manifest(artifacts: Artifacts, model_id: str) -> Manifest:
    return msgspec.json.decode(await artifacts.get(model_key(model_id, "manifest.json")), type=Manifest)


def promote(batch: Batch, model_id: str) -> None:
    """Make a model live whatever the gate said; InvalidInput if it was trained on another feature digest."""

    async def point() -> None:
        artifacts = batch.open_artifacts()
        try:
            manifest = await _manifest(artifacts, model_id)
            if manifest.digest != batch.features.digest:
                raise InvalidInput(f"model {model_id} was trained on other features; train a new one")
            await _point(artifacts, manifest.digest, model_id)
        finally:
            await artifacts.close()

    asyncio.run(point())


def roll_back(batch: Batch) -> str:
    """Make the previously live model live again and return its id. NotFound if there was none."""

    async def point() -> str:
        artifacts = batch.open_artifacts()
        try:
            live = await live_pointer(artifacts, batch.features.digest)
            if live is None or live.previous is None:
                raise NotFound("no earlier model was live; there is nothing to roll back to")
            await _point(artifacts, batch.features.digest, live.previous)
            return live.previous
        finally:
            await artifacts.close()

    return asyncio.run(point())
