import zlib
from pathlib import Path

import msgspec
import pytest

from pingfeed.core.clock import DAY_MS
from pingfeed.core.errors import FormatError, Unavailable
from pingfeed.spool.checkpoint import FILE, KEPT_DAYS, Delivered, Tally

NOW = 1_795_348_800_000  # 2026-11-22
NEW = Tally(spool_id="9f3c0a51d2e84b76", service="ingest")


def test_a_segment_counts_on_the_days_of_its_arrivals() -> None:
    tally = NEW.acked(1, {"2026-11-21": 3, "2026-11-22": 4}, NOW).acked(2, {"2026-11-22": 5}, NOW + 10)
    assert tally.acked_to == 2
    assert tally.days == {"2026-11-21": Delivered(3, NOW), "2026-11-22": Delivered(9, NOW + 10)}
    assert NEW.days == {}, "a tally that was read elsewhere does not change"


def test_a_segment_that_is_acked_again_counts_once() -> None:
    tally = NEW.acked(7, {"2026-11-22": 5}, NOW)
    assert tally.acked(7, {"2026-11-22": 5}, NOW + 1) is tally
    assert tally.acked(6, {"2026-11-22": 5}, NOW + 1) is tally


def test_old_days_are_dropped() -> None:
    tally = NEW.acked(1, {"2026-11-22": 1}, NOW).acked(2, {"2027-12-30": 1}, NOW + (KEPT_DAYS + 1) * DAY_MS)
    assert list(tally.days) == ["2027-12-30"]
    kept = NEW.acked(1, {"2026-11-22": 1}, NOW).acked(2, {"2027-12-27": 1}, NOW + KEPT_DAYS * DAY_MS)
    assert list(kept.days) == ["2026-11-22", "2027-12-27"]


def test_a_clock_that_goes_back_keeps_the_latest_delivery_time() -> None:
    tally = NEW.acked(1, {"2026-11-22": 1}, NOW + 500).acked(2, {"2026-11-22": 1}, NOW)
    assert tally.days["2026-11-22"] == Delivered(2, NOW + 500)


def test_a_written_tally_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / FILE
    tally = NEW.acked(1234, {"2026-11-22": 5000}, NOW)
    tally.write(path)
    assert Tally.of(path.read_bytes()) == tally
    assert path.read_bytes() == (
        b'{"crc":1986331120,"days":{"2026-11-22":{"delivered":5000,"delivered_ms":1795348800000}},'
        b'"service":"ingest","settled_to":1234,"spool_id":"9f3c0a51d2e84b76"}'
    )


def test_unknown_fields_are_ignored() -> None:
    bare = {"crc": 0, "more": [1], "service": "ingest", "spool_id": "9f3c0a51d2e84b76"}
    data = msgspec.json.encode(bare | {"crc": zlib.crc32(msgspec.json.encode(bare))})
    assert Tally.of(data) == NEW


@pytest.mark.parametrize("data", [b"", b"[]", b'{"spool_id":1}', b"\xff", NEW.encode().replace(b"ingest", b"inwest")])
def test_a_damaged_tally_is_a_format_error(data: bytes) -> None:
    with pytest.raises(FormatError, match="is not a spool's tally"):
        Tally.of(data)


def test_a_failed_write_is_unavailable(tmp_path: Path) -> None:
    def refuse(_path: Path, _data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(Unavailable, match="No space left"):
        NEW.write(tmp_path / FILE, refuse)
