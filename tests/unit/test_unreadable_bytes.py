"""Whatever bytes a small file of ours holds, the program that reads it goes on."""

from pathlib import Path

import pytest

from batch.lake.tombstones import find_user_ids
from batch.ops.rejected import line_of
from feed_api.demo_page.people import FILE, People, PeopleFile
from ingest_api.rejected import _LakeSink
from pingfeed import checks
from pingfeed.core.errors import FormatError
from pingfeed.core.ranker import pointer_key
from pingfeed.settings import load
from pingfeed.spool.checkpoint import Tally
from simulator.world import decode
from tests.unit.fakes import MemoryArtifacts

BAD = [b"", b"\xff", b'{"a": "\xff"}', b'"\xed\xa0\x80"', b"[" * 5000, b'{"current": "1", "created_ms": "x"}', b"7"]


@pytest.mark.parametrize("bad", BAD)
def test_unreadable_bytes_count_as_absent_or_are_a_clear_error(tmp_path: Path, bad: bytes) -> None:
    (tmp_path / FILE).write_bytes(bad)
    assert PeopleFile(tmp_path).read() == People()
    assert _LakeSink(MemoryArtifacts(), tmp_path / FILE).stored("2026-11-22") == 0
    assert line_of(bad) is None
    assert find_user_ids(bad.decode("utf-8", "replace")) <= {"current", "x", "1", "a", "created_ms"}
    for read in (Tally.of, decode):
        with pytest.raises(FormatError):
            read(bad, "a file")


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("beside", [False, True])
def test_doctor_names_a_damaged_pointer_or_manifest(tmp_path: Path, bad: bytes, beside: bool) -> None:
    environ = {"PINGFEED_HOME": str(tmp_path)}
    digest = load(environ).features.digest
    for kind, folder in (("model", "models"), ("snapshot", "snapshots")):
        pointer = tmp_path / "artifacts" / pointer_key(digest, kind)
        manifest = tmp_path / "artifacts" / folder / "1" / "manifest.json"
        for path, data in ((pointer, b'{"current": "1"}' if beside else bad), (manifest, bad)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    found = {one.name: one.ok for one in checks.examine(environ)}
    assert (found["model"], found["snapshot"]) == (False, False)
