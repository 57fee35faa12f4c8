"""A backup in a bucket is restored byte for byte, and its removal removes its objects."""

from pathlib import Path

import pytest

from batch.ops.backup import restore, save, store_at
from tests.conformance.place import Place
from tests.unit.test_backup import at, parts_of

pytestmark = pytest.mark.real


def test_a_bucket_keeps_backups(place: Place, tmp_path: Path) -> None:
    batch = at(tmp_path / "home")
    lake = tmp_path / "home" / "lake" / "events"
    lake.mkdir(parents=True)
    files = [lake / f"{number}.parquet" for number in range(20)]
    for number, path in enumerate(files):
        path.write_bytes(f"{number}".encode() * 1000)
    store = store_at(f"s3://{place.bucket}/backups", batch.settings)
    save(batch, store)
    (lake / "0.parquet").write_bytes(b"changed")
    save(batch, store, keep=1)
    assert len(store.list("backups")) == 1
    assert {path.rpartition("/")[2] for path in store.list("parts")} == parts_of(store, "")
    restore(at(tmp_path / "other"), store)
    other = tmp_path / "other" / "lake" / "events"
    assert [(other / f"{n}.parquet").read_bytes() for n in range(20)] == [path.read_bytes() for path in files]
