import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from pingfeed.core.errors import FormatError
from pingfeed.core.features import FACET_WIDTH, NO_VALUE, PingBlock, language_code, place_code
from pingfeed.core.snapshot import MAGIC, Snapshot, SnapshotContent, write

GOLDEN = Path(__file__).parents[1] / "golden"
DIGEST = "00112233445566ff"


def content() -> SnapshotContent:
    facets = np.full((4, 1, FACET_WIDTH), NO_VALUE, np.uint32)
    facets[0, 0, :2] = 5, 9
    facets[2, 0, 0] = 5
    pings = PingBlock(
        values=np.array([[0.5, np.nan], [1.5, 2], [-3, 4], [0, 0.25]], np.float32),
        creator=np.array([10, 20, 10, 10], np.uint32),
        facets=facets,
        country=np.array([place_code("DE"), 0, place_code("BR"), place_code("DE")], np.uint32),
        language=np.array([language_code("de"), 0, language_code("pt-BR"), language_code("de")], np.uint32),
    )
    return SnapshotContent(
        tick=1_994_832,
        digest=DIGEST,
        facets=("topics",),
        ping_ids=["a", "ping:b", "c.c", "d" * 128],
        numbers=np.array([3, 4, 9, 4_000_000_000], np.uint32),
        created_tick=np.array([100, 101, 103, 102], np.uint32),
        impressions=np.array([7, 0, 1, 2], np.uint32),
        pings=pings,
        creator_ids={10: "creator-10", 20: "u", 30: "creator-without-pings"},
        lists={"fresh": [2, 3, 1, 0], "trending:DE": [3], "evergreen": []},
    )


@pytest.fixture
def snapshot() -> Snapshot:
    return Snapshot(write(content()))


def test_writer_reproduces_the_stored_snapshot_of_format_2() -> None:
    assert write(content()) == (GOLDEN / "snapshot_v2.bin").read_bytes()


@pytest.mark.parametrize("version", [1, 2])
def test_reader_reads_the_stored_snapshot_of_its_own_and_the_previous_format(version: int) -> None:
    read, written = Snapshot.open(GOLDEN / f"snapshot_v{version}.bin", DIGEST), content()
    assert (len(read), read.tick, read.digest, read.facets) == (4, written.tick, DIGEST, ("topics",))
    for name in ("numbers", "created_tick", "impressions"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
    assert read.ping_ids(np.arange(4)) == list(written.ping_ids)
    assert read.creator_ids(np.arange(4)) == ["creator-10", "u", "creator-10", "creator-10"]
    np.testing.assert_equal(asdict(read.block(np.arange(4))), asdict(written.pings))


def test_every_column_begins_at_a_multiple_of_64() -> None:
    data = write(content())
    columns = json.loads(data[16 : 16 + int.from_bytes(data[8:16], "little")])["columns"]
    assert {offset % 64 for _, _, offset in columns.values()} == {0}


def test_a_column_that_the_reader_does_not_know_is_skipped() -> None:
    read = Snapshot(write(replace(content(), more={"of_tomorrow": np.arange(9, dtype=np.float16)})))
    np.testing.assert_equal(asdict(read.block(np.arange(4))), asdict(content().pings))


def test_an_absent_column_is_unknown() -> None:
    data = write(content())
    for name in (b'"country"', b'"language"', b'"impressions"', b'"created_tick"', b'"facet_values"'):
        data = data.replace(name, name.upper())
    read = Snapshot(data)
    block = read.block(np.arange(4))
    assert (block.country.tolist(), block.language.tolist(), read.impressions.tolist()) == ([0] * 4,) * 3
    assert block.facets.shape == content().pings.facets.shape
    assert (block.facets == NO_VALUE).all()


def test_ids_are_found_both_ways(snapshot: Snapshot) -> None:
    for row, ping_id in enumerate(content().ping_ids):
        assert snapshot.ping_id(row) == ping_id
        assert snapshot.row_of_ping(ping_id) == row
        assert snapshot.creator_id(row) == ("u" if row == 1 else "creator-10")
    assert snapshot.creator_number("u") == 20
    assert snapshot.creator_number("creator-without-pings") == 30


def test_topics_have_names_if_the_writer_gave_them(snapshot: Snapshot) -> None:
    assert (snapshot.topic_names, snapshot.topic_numbers) == ({}, {})
    named = Snapshot(write(replace(content(), topics={9: "Füße", 5: "cats"})))
    assert named.topic_names == {5: "cats", 9: "Füße"}
    assert named.topic_numbers["Füße"] == 9
    assert named.topics[0].tolist() == [5, 9, *[NO_VALUE] * 6]


def test_unknown_ids_and_numbers_have_no_row(snapshot: Snapshot) -> None:
    assert snapshot.row_of_ping("unknown") == -1
    assert snapshot.creator_number("unknown") is None
    assert snapshot.rows_of_numbers(np.array([9, 5, 4, 0], np.uint32)).tolist() == [2, -1, 1, -1]


def test_many_ids_are_found_as_each_one_is(snapshot: Snapshot) -> None:
    assert snapshot.rows_of_pings(["d" * 128, "unknown", "a", "a", "c.c"]).tolist() == [3, -1, 0, 0, 2]
    assert snapshot.rows_of_pings([]).tolist() == []


def test_ids_with_the_same_hash_are_distinguished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pingfeed.core.snapshot._digest", lambda _value: b"the same")
    read = Snapshot(write(content()))
    assert read.rows_of_pings([*content().ping_ids, "unknown"]).tolist() == [0, 1, 2, 3, -1]


def test_a_creators_pings_come_newest_first(snapshot: Snapshot) -> None:
    for creator, limit, rows in ((10, 10, [2, 3, 0]), (10, 2, [2, 3]), (20, 10, [1]), (30, 10, []), (31, 10, [])):
        assert snapshot.newest_of(creator, limit).tolist() == rows


def test_lists_keep_their_order_and_an_absent_one_is_empty(snapshot: Snapshot) -> None:
    assert snapshot.listed("fresh", 2).tolist() == [2, 3]
    for name, rows in (("fresh", [2, 3, 1, 0]), ("trending:DE", [3]), ("evergreen", []), ("trending:FR", [])):
        assert snapshot.listed(name).tolist() == rows


def test_a_snapshot_without_pings_finds_nothing() -> None:
    none, full = np.empty(0, np.uint32), content()
    pings = PingBlock(np.empty((0, 2), np.float32), none, np.empty((0, 1, FACET_WIDTH), np.uint32), none, none)
    empty = replace(full, ping_ids=[], numbers=none, created_tick=none, impressions=none, pings=pings, lists={})
    read = Snapshot(write(replace(empty, creator_ids={})))
    assert len(read) == 0
    assert read.rows_of_numbers(np.array([3], np.uint32)).tolist() == [-1]
    assert read.rows_of_pings(["a"]).tolist() == [-1]
    assert read.row_of_ping("a") == -1
    assert read.creator_number("u") is None
    assert read.newest_of(10, 3).tolist() == []


def test_every_cut_is_rejected(tmp_path: Path) -> None:
    data = write(content())
    end = max(i for i, byte in enumerate(data) if byte)  # what follows is padding
    path = tmp_path / "snapshot.bin"
    for length in {*range(0, end, 97), 0, 8, 15, 16, end}:
        path.write_bytes(data[:length])
        with pytest.raises(FormatError):
            Snapshot.open(path)


@pytest.mark.parametrize(
    "header",
    [
        b"{}",
        b"not json",
        b'{"tick":1,"digest":"","facets":[],"columns":{},"lists":{}}',
        b'{"tick":1,"digest":"","facets":[],"columns":{"number":["no type",[1],0]},"lists":{}}',
        b'{"tick":1,"digest":"","facets":[],"columns":{"number":["<u4",[99999999],0]},"lists":{}}',
    ],
)
def test_a_damaged_header_is_rejected(header: bytes) -> None:
    with pytest.raises(FormatError):
        Snapshot(MAGIC + len(header).to_bytes(8, "little") + header)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (write(replace(content(), lists={"fresh": [4]})), "a row that is not there"),
        (write(replace(content(), impressions=np.zeros(3, np.uint32))), "one length"),
        (MAGIC[:7] + b"\x03" + write(content())[8:], "not a snapshot"),
        (write(replace(content(), digest="ff66554433221100")), "feature digest"),
    ],
    ids=["row that is not there", "columns of different lengths", "another version", "another digest"],
)
def test_an_inconsistent_or_foreign_snapshot_is_rejected(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "snapshot.bin"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=said):
        Snapshot.open(path, DIGEST)
