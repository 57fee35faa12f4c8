"""A backup in a bucket is restored byte for byte, and its removal removes its objects."""

from pathlib import Path

import pytest

from batch.ops.backup import restore, save, store_at
from tests.conformance.place import Place
from tests.unit.test_backup import at, files_below

pytestmark = pytest.mark.real


def test_a_bucket_keeps_backups(place: Place, tmp_path: Path) -> None:
    batch = at(tmp_path / "home")
    lake = tmp_path / "home" / "lake" / "events"
    lake.mkdir(parents=True)
    for number in range(20):
        (lake / f"{number}.parquet").write_bytes(f"{number}".encode() * 1000)
    store = store_at(f"s3://{place.bucket}/backups", batch.settings)
    save(batch, store)
    (lake / "0.parquet").write_bytes(b"changed")
    save(batch, store, keep=1)
    assert (len(store.list("backups")), len(store.list("parts"))) == (1, 20)
    restore(at(tmp_path / "other"), store)
    assert files_below(tmp_path / "other" / "lake") == files_below(tmp_path / "home" / "lake")
