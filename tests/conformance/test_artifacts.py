"""What every Artifacts promises (`ports.Artifacts`). A new adapter is one entry of ADAPTERS."""

import asyncio
from collections.abc import Callable

import pytest

from pingfeed.adapters.artifacts_file import FileArtifacts
from pingfeed.adapters.artifacts_s3 import S3Artifacts
from pingfeed.core.errors import InvalidInput, NotFound
from pingfeed.ports import Artifacts
from tests.conformance.place import Place

pytestmark = pytest.mark.conformance
ADAPTERS: dict[str, Callable[[Place], Artifacts]] = {
    "file": lambda place: FileArtifacts(f"file://{place.folder}/artifacts"),
    "s3": lambda place: S3Artifacts(f"s3://{place.bucket}/artifacts"),
}


async def test_what_was_put_is_got(store: Artifacts) -> None:
    await store.put("models/m1/model.txt", b"\x00tree")
    assert await store.get("models/m1/model.txt") == b"\x00tree"


async def test_what_is_absent_is_not_found(store: Artifacts) -> None:
    await store.put("models/m1/model.txt", b"x")
    for key in ("models/m2/model.txt", "models/m1", "models/m1/model.txt/deeper"):
        with pytest.raises(NotFound):
            await store.get(key)


async def test_publishing_is_a_put_that_another_instance_sees_at_once(store: Artifacts, other: Artifacts) -> None:
    for tick in (b"1", b"2"):
        await store.put("pointers/d/snapshot.json", tick)
        assert await other.get("pointers/d/snapshot.json") == tick


async def test_what_was_deleted_is_not_found(store: Artifacts) -> None:
    await store.put("snapshots/1/snapshot.bin", b"bytes")
    for _ in range(2):
        await store.delete("snapshots/1/snapshot.bin")
        with pytest.raises(NotFound):
            await store.get("snapshots/1/snapshot.bin")


async def test_a_reader_sees_the_old_bytes_or_the_new(store: Artifacts) -> None:
    versions = [bytes([n]) * 200_000 for n in range(8)]
    await store.put("pointers/d/model.json", versions[0])

    async def put_all() -> None:
        for version in versions:
            await store.put("pointers/d/model.json", version)

    writing = asyncio.create_task(put_all())
    while not writing.done():
        assert await store.get("pointers/d/model.json") in versions
    await writing


@pytest.mark.parametrize("key", ["../outside", "/etc/passwd", "models/../../x", "", "models/.hidden"])
async def test_a_key_stays_below_the_store(store: Artifacts, key: str) -> None:
    with pytest.raises(InvalidInput):
        await store.put(key, b"x")
    with pytest.raises(InvalidInput):
        await store.get(key)


async def test_a_ready_store_passes_its_check(store: Artifacts) -> None:
    await store.check()


async def test_a_swap_replaces_only_what_was_seen(store: Artifacts, other: Artifacts) -> None:
    key = "pointers/d/model.json"
    assert not await store.swap(key, b"0", b"never there")
    assert await store.swap(key, b"1", None)
    assert not await other.swap(key, b"2", None)
    assert not await other.swap(key, b"2", b"0")
    assert await other.swap(key, b"2", b"1")
    assert await store.get(key) == b"2"
    swapped = await asyncio.gather(*(store.swap(key, b"n%d" % n, b"2") for n in range(6)))
    assert swapped.count(True) == 1
    assert await other.get(key) == b"n%d" % swapped.index(True)
