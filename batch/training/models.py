"""Models in the artifact store: store, list, promote, roll back, load the live one."""

from typing import Final

from batch.wiring import Batch, move_pointer, read_json, read_pointer, update_names
from pingfeed.core.errors import FormatError, InvalidInput, NotFound
from pingfeed.core.features import FeatureSet
from pingfeed.core.integrity import read_manifest, seal
from pingfeed.core.ranker import FallbackRanker, Manifest, Ranker, load, model_key
from pingfeed.ports import Artifacts

_INDEX: Final = "models/index.json"


def live_ranker(batch: Batch) -> Ranker:
    """The live model, else the fallback ranker: candidates are pre-scored by the ranker that serves."""

    async def read(artifacts: Artifacts) -> Ranker:
        pointer = await read_pointer(artifacts, batch.features.digest, "model")
        for model_id in pointer.names if pointer else ():
            try:
                return await _loaded(artifacts, model_id, batch.features)
            except (FormatError, NotFound, InvalidInput) as error:
                batch.progress.say(f"  model {model_id} cannot be used: {error.message}")
        return FallbackRanker(batch.features)

    return batch.with_artifacts(read)


def store(batch: Batch, manifest: Manifest, text: str) -> None:
    """Store a trained model and make it live if its manifest says so."""

    def with_it(known: list[str]) -> list[str]:
        return [*(one for one in known if one != manifest.model_id), manifest.model_id]

    async def put(artifacts: Artifacts) -> None:
        data = text.encode()
        await artifacts.put(model_key(manifest.model_id, "model.txt"), data)
        await artifacts.put(model_key(manifest.model_id, "manifest.json"), seal(manifest, data))
        await update_names(artifacts, _INDEX, with_it)
        if manifest.live:
            await move_pointer(batch, artifacts, manifest.digest, "model", manifest.model_id)

    batch.with_artifacts(put)


def listed(batch: Batch) -> list[tuple[Manifest, bool]]:
    """All trained models that can be read, newest last, and whether each is live."""

    async def read(artifacts: Artifacts) -> list[tuple[Manifest, bool]]:
        live = await read_pointer(artifacts, batch.features.digest, "model")
        found: list[tuple[Manifest, bool]] = []
        for model_id in await _index(artifacts):
            try:
                found.append((await _manifest(artifacts, model_id), live is not None and model_id == live.current))
            except (FormatError, NotFound) as error:
                batch.progress.say(f"  model {model_id} cannot be read: {error.message}")
        return found

    return batch.with_artifacts(read)


def promote(batch: Batch, model_id: str) -> None:
    """Make a model live whatever the gate said.

    InvalidInput if it was trained on another feature digest, FormatError if it is damaged.
    """

    async def point(artifacts: Artifacts) -> None:
        manifest = await _manifest(artifacts, model_id)
        if manifest.digest != batch.features.digest:
            raise InvalidInput(f"model {model_id} was trained on other features; train a new one")
        await _loaded(artifacts, model_id, batch.features)
        await move_pointer(batch, artifacts, manifest.digest, "model", model_id)

    batch.with_artifacts(point)


def roll_back(batch: Batch) -> str:
    """Make the previously live model live again and return its id. NotFound if there was none."""

    async def point(artifacts: Artifacts) -> str:
        live = await read_pointer(artifacts, batch.features.digest, "model")
        if live is None or live.previous is None:
            raise NotFound("no earlier model was live; there is nothing to roll back to")
        await _loaded(artifacts, live.previous, batch.features)
        await move_pointer(batch, artifacts, batch.features.digest, "model", live.previous)
        return live.previous

    return batch.with_artifacts(point)


async def _index(artifacts: Artifacts) -> list[str]:
    return await read_json(artifacts, _INDEX, list[str], [])


async def _manifest(artifacts: Artifacts, model_id: str) -> Manifest:
    return read_manifest(Manifest, await artifacts.get(model_key(model_id, "manifest.json")), f"model {model_id}")


async def _loaded(artifacts: Artifacts, model_id: str, features: FeatureSet) -> Ranker:
    manifest = await artifacts.get(model_key(model_id, "manifest.json"))
    return load(manifest, await artifacts.get(model_key(model_id, "model.txt")), features)
