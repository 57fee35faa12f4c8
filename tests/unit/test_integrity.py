"""Damaged models, snapshots, manifests and pointers: rejected before they are parsed, and the one before serves."""

import hashlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from batch.jobs import tick
from batch.training import models
from batch.wiring import Batch, build
from pingfeed.adapters.artifacts_file import FileArtifacts
from pingfeed.core.errors import FormatError
from pingfeed.core.ranker import Manifest, model_key, pointer_key, snapshot_key
from pingfeed.settings import load
from tests.prove import figure, rounds
from tests.unit.feed_world import FEATURES, NOW_MS, TICK, catalogue, feed_world, ping_ids, put_snapshot, snapshot_bytes
from tests.unit.lakes import FIRST, TICK_MS, LakeWorld
from tests.unit.small_model import manifest, train


@pytest.fixture(scope="module")
def text() -> bytes:
    return train().model_to_string().encode()


def put_model(data: dict[str, bytes], model_id: str, text: bytes) -> None:
    """Store a model as the batch side does."""
    described = msgspec.json.decode(manifest(model_id=model_id))
    data[model_key(model_id, "model.txt")] = text
    data[model_key(model_id, "manifest.json")] = json.dumps({**described, "sha256": _sha256(text)}).encode()


def point(data: dict[str, bytes], what: str, current: str, previous: str | None = None) -> None:
    data[pointer_key(FEATURES.digest, what)] = json.dumps({"current": current, "previous": previous}).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _published(text: bytes) -> dict[str, bytes]:
    """Two models and two snapshots, the later ones live."""
    data: dict[str, bytes] = {}
    for model_id in ("older", "newer"):
        put_model(data, model_id, text)
    for at in (TICK - 1, TICK):
        put_snapshot(data, snapshot_bytes(catalogue(30), tick=at), at)
    point(data, "model", "newer", "older")
    point(data, "snapshot", str(TICK), str(TICK - 1))
    return data


@pytest.fixture
def data(text: bytes) -> dict[str, bytes]:
    return _published(text)


def _batch(home: Path) -> Batch:
    return build(load({"PINGFEED_HOME": str(home)}), clock=lambda: NOW_MS, quiet=True)


def _store(batch: Batch, model_id: str, text: bytes) -> None:
    described = msgspec.json.decode(manifest(model_id=model_id), type=Manifest)
    models.store(batch, described, text.decode())


def _flip(path: Path, old: bytes, new: bytes) -> None:
    whole = path.read_bytes()
    assert old in whole
    path.write_bytes(whole.replace(old, new, 1))


DAMAGE = [(b"threshold=", b"threshold<"), (b"leaf_value=0", b"leaf_value=1"), (b"leaf_value=", b"leaf_value= ")]


@pytest.mark.parametrize(("old", "new"), DAMAGE)
async def test_a_damaged_model_is_rejected_before_it_is_parsed_and_the_previous_one_serves(
    tmp_path: Path, data: dict[str, bytes], old: bytes, new: bytes
) -> None:
    key = model_key("newer", "model.txt")
    data[key] = data[key].replace(old, new, 1)
    async with feed_world(tmp_path, artifacts=data) as world:
        feed = await world.feed()
        assert (feed["model_id"], feed["degraded"]) == ("older", [])
        ready = (await world.client.get("/readyz")).json()
        assert ready["degraded"] == ["model"]
        assert "SHA-256" in ready["detail"]["model"]


@pytest.mark.parametrize("harm", [lambda b: b[:-100], lambda b: b"", lambda b: b"garbage", lambda b: b[:-1] + b"\1"])
async def test_a_damaged_snapshot_is_rejected_at_the_start_and_the_previous_one_serves(
    tmp_path: Path, data: dict[str, bytes], harm: object
) -> None:
    data[snapshot_key(TICK)] = harm(data[snapshot_key(TICK)])  # type: ignore[operator]
    async with feed_world(tmp_path, artifacts=data) as world:
        feed = await world.feed()
        assert feed["tick_ms"] == (TICK - 1) * 900_000
        assert len(feed["items"]) == 10
        assert (await world.client.get("/readyz")).json()["degraded"] == ["snapshot"]


@pytest.mark.parametrize("harm", [b"", b"\xff" * 5000, None])
async def test_a_snapshot_file_that_is_changed_in_place_does_not_reach_the_running_feed(
    tmp_path: Path, data: dict[str, bytes], harm: bytes | None
) -> None:
    for key, content in data.items():
        path = tmp_path / "artifacts" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    path = tmp_path / "artifacts" / snapshot_key(TICK)
    async with feed_world(tmp_path, files=FileArtifacts(f"file://{tmp_path}/artifacts")) as world:
        before = ping_ids(await world.feed("a"))
        os.truncate(path, 100) if harm is None else path.write_bytes(harm)
        assert ping_ids(await world.feed("b")) == before


async def test_a_manifest_of_the_old_format_is_accepted_with_a_warning(
    tmp_path: Path, data: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    for key in (model_key("newer", "manifest.json"), snapshot_key(TICK, "manifest.json")):
        fields = json.loads(data[key])
        del fields["sha256"]
        data[key] = json.dumps(fields).encode()
    caplog.set_level(logging.WARNING)
    async with feed_world(tmp_path, artifacts=data) as world:
        feed = await world.feed()
        assert (feed["model_id"], feed["tick_ms"]) == ("newer", TICK * 900_000)
    assert caplog.text.count("no SHA-256") == 2


BAD_POINTERS = [b'{"current": "\xff"}', b"\xff", b"", b"[]", b"null", b'"7"', b'{"current": {}}', b"[" * 5000]


@pytest.mark.parametrize("bad", BAD_POINTERS)
@pytest.mark.parametrize("what", ["model", "snapshot"])
async def test_the_loader_survives_a_damaged_pointer_and_loads_after_its_repair(
    tmp_path: Path, data: dict[str, bytes], caplog: pytest.LogCaptureFixture, what: str, bad: bytes
) -> None:
    key = pointer_key(FEATURES.digest, what)
    whole, data[key] = data[key], bad
    async with feed_world(tmp_path, artifacts=data) as world:
        await world.feed()
        ready = await world.client.get("/readyz")
        assert (ready.status_code, ready.json()["degraded"]) == (200, [what])
        world.artifacts.data[key] = whole
        await world.feed_until(lambda feed: feed["model_id"] == "newer" and feed["tick_ms"] == TICK * 900_000)
        assert (await world.client.get("/readyz")).json()["degraded"] == []
    assert caplog.text.count(f"rejected {what}") == 1


async def test_an_absent_manifest_is_like_a_damaged_one(tmp_path: Path, data: dict[str, bytes]) -> None:
    for key in (model_key("newer", "manifest.json"), snapshot_key(TICK, "manifest.json")):
        del data[key]
    async with feed_world(tmp_path, artifacts=data) as world:
        feed = await world.feed()
        assert (feed["model_id"], feed["tick_ms"]) == ("older", (TICK - 1) * 900_000)


def test_manifests_hold_the_sha256_of_model_and_snapshot(tmp_path: Path, text: bytes) -> None:
    world = LakeWorld(tmp_path)
    _store(world.batch, "m1", text)
    world.time.now_ms = FIRST * TICK_MS + 5_000
    tick.run(world.batch, FIRST)
    for folder, name in (("models/m1", "model.txt"), (f"snapshots/{FIRST}", "snapshot.bin")):
        path = tmp_path / "artifacts" / folder
        described = json.loads((path / "manifest.json").read_bytes())
        assert described["sha256"] == _sha256((path / name).read_bytes())


def test_a_damaged_model_is_neither_promoted_nor_rolled_back_to_and_the_tick_uses_the_previous_one(
    tmp_path: Path, text: bytes
) -> None:
    batch = _batch(tmp_path)
    for model_id in ("m1", "m2"):
        _store(batch, model_id, text)
    _flip(tmp_path / "artifacts" / model_key("m2", "model.txt"), *DAMAGE[0])
    assert models.live_ranker(batch).model_id == "m1"
    models.roll_back(batch)
    for move in (lambda: models.promote(batch, "m2"), lambda: models.roll_back(batch)):
        with pytest.raises(FormatError, match="damaged"):
            move()
    assert [one.model_id for one, live in models.listed(batch) if live] == ["m1"]


@pytest.mark.parametrize("bad", BAD_POINTERS)
def test_a_damaged_pointer_stops_no_tick_and_the_next_publication_repairs_it(tmp_path: Path, bad: bytes) -> None:
    from batch.wiring import move_pointer, read_pointer

    batch = _batch(tmp_path)
    path = tmp_path / "artifacts" / pointer_key(batch.features.digest, "model")
    path.parent.mkdir(parents=True)
    path.write_bytes(bad)
    assert models.live_ranker(batch).model_id is None
    batch.with_artifacts(lambda artifacts: move_pointer(batch, artifacts, batch.features.digest, "model", "m2"))
    found = batch.with_artifacts(lambda artifacts: read_pointer(artifacts, batch.features.digest, "model"))
    assert found is not None
    assert found.current == "m2"


def test_no_bit_flip_of_a_manifest_changes_what_is_served(tmp_path: Path, text: bytes) -> None:
    from pingfeed.core.integrity import read_manifest, seal  # absent from an older tree

    whole = seal(msgspec.json.decode(manifest(), type=Manifest), text)
    kept = read_manifest(Manifest, whole, "m1")
    for at in range(len(whole) * 8):
        damaged = bytearray(whole)
        damaged[at // 8] ^= 1 << at % 8
        try:
            found = read_manifest(Manifest, bytes(damaged), "m1")
        except FormatError:
            continue
        assert msgspec.structs.replace(found, sha256="", checksum="") == msgspec.structs.replace(
            kept, sha256="", checksum=""
        )


def test_no_bit_flip_of_a_model_or_snapshot_is_accepted_aborts_or_hangs() -> None:
    flips = rounds(20, 200)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "tests.unit.flip_bits", str(flips)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert (ran.returncode, ran.stdout.strip()) == (0, "0"), ran.stderr[-2000:]
    figure("single-bit flips of model and snapshot", flips=2 * flips, aborted=0, hung=0, accepted=0)
