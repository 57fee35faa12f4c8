"""Damaged spool files: a start never fails, keeps every whole record, invents none, and reports the rest."""

import asyncio
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pingfeed.spool.checkpoint import FILE as TALLY
from pingfeed.spool.segment import HEADER_BYTES, Damage, Record, encode_head, header, name_of, records
from pingfeed.spool.spool import Spool
from pingfeed.spool.stats import wait_landed
from tests.conformance.samples import NOON_MS
from tests.prove import figure, rounds

FILES = rounds(2_000, 20_000)
FOLDERS = rounds(60, 2_500)
SPOOL_ID = "9f3c0a51d2e84b76"

# One file


class Made:
    """A segment's bytes, and where each of its records lies."""

    def __init__(self, chance: random.Random) -> None:
        self.data = bytearray(header(SPOOL_ID))
        self.written: dict[int, tuple[Record, int, int]] = {}
        for record_id in range(1, chance.randint(1, 12) + 1):
            lines = b'{"n":%d,"x":"%s"}\n' % (record_id, b"y" * int(chance.expovariate(0.01)))
            start = len(self.data)
            self.data += encode_head(record_id, lines, 1, NOON_MS) + lines
            self.written[record_id] = (Record(record_id, lines, 1, NOON_MS), start, len(self.data))

    def untouched(self, start: int, end: int) -> set[int]:
        """The records of which no byte lies in a range."""
        return {number for number, (_, first, last) in self.written.items() if last <= start or first >= end}


Harm = Callable[[Made, random.Random], tuple[int, int]]
"""Damages the bytes; returns the start and end of the damaged range, as offsets in the undamaged file."""


def _range(made: Made, chance: random.Random, longest: int = 400) -> tuple[int, int]:
    start = chance.randrange(len(made.data))
    return start, min(len(made.data), start + chance.randint(1, longest))


def cut(made: Made, chance: random.Random) -> tuple[int, int]:
    start, end = chance.randrange(len(made.data)), len(made.data)
    del made.data[start:]
    return start, end


def flip_a_bit(made: Made, chance: random.Random) -> tuple[int, int]:
    at = chance.randrange(len(made.data))
    made.data[at] ^= 1 << chance.randrange(8)
    return at, at + 1


def overwrite(made: Made, chance: random.Random) -> tuple[int, int]:
    start, end = _range(made, chance)
    made.data[start:end] = chance.choice((bytes(end - start), chance.randbytes(end - start)))
    return start, end


def overwrite_with_its_own(made: Made, chance: random.Random) -> tuple[int, int]:
    """A block that was written in another's place: there are whole heads and halves of lines in it."""
    start, end = _range(made, chance)
    other = chance.randrange(len(made.data))
    made.data[start:end] = bytes(made.data[other : other + end - start]).ljust(end - start, b"\0")
    return start, end


def lose_a_piece(made: Made, chance: random.Random) -> tuple[int, int]:
    start, end = _range(made, chance)
    del made.data[start:end]
    return start, end


def gain_a_piece(made: Made, chance: random.Random) -> tuple[int, int]:
    at = chance.randrange(len(made.data))
    made.data[at:at] = chance.choice((chance.randbytes(50), bytes(made.data[:300])))
    return at, at + 1  # The byte before which it lies: the record around it is torn, unless that begins here.


def zero_the_tail(made: Made, chance: random.Random) -> tuple[int, int]:
    start, end = chance.randrange(len(made.data)), len(made.data)
    made.data[start:] = bytes(end - start)
    return start, end


HARMS = (cut, flip_a_bit, overwrite, overwrite_with_its_own, lose_a_piece, gain_a_piece, zero_the_tail)


@pytest.mark.parametrize("harm", HARMS, ids=[harm.__name__ for harm in HARMS])
def test_every_undamaged_record_is_read_and_none_is_invented(harm: Harm) -> None:
    lost = 0
    for seed in range(FILES // len(HARMS) + 1):
        chance = random.Random(seed)
        made = Made(chance)
        start, end = harm(made, chance)
        found = list(records(bytes(made.data)))
        read = {one.id: one for one in found if isinstance(one, Record)}
        assert all(one == made.written[number][0] for number, one in read.items()), "it was not written so"
        assert made.untouched(start, end) <= read.keys()
        assert len(read) == len([one for one in found if isinstance(one, Record)])
        missing = made.written.keys() - read.keys()
        lost += len(missing)
        whole = HEADER_BYTES + sum(made.written[number][2] - made.written[number][1] for number in read)
        if made.data and len(made.data) != whole:
            assert [one for one in found if isinstance(one, Damage)], "bytes that belong to no record are reported"
    figure(f"files harmed: {harm.__name__.replace('_', ' ')}", files=FILES // len(HARMS) + 1, records_hit=lost)


def test_random_bytes_hold_no_record() -> None:
    for seed in range(FILES // 4):
        chance = random.Random(seed)
        data = chance.randbytes(chance.randint(0, 200)) + chance.choice((b"", b"\xf0PFR", header(SPOOL_ID)))
        assert [one for one in records(data) if isinstance(one, Record)] == []


# Whole directories


def _lines_of(spool: Spool) -> set[bytes]:
    return {record.lines for one in spool.segments() if not one.delivered for record in spool.records(one)}


async def _filled(folder: Path) -> set[bytes]:
    """A spool with segments of a few records, the first two delivered; the lines that are not."""
    spool = Spool(folder, segment_events=4)
    for number in range(30):
        await spool.append(b"%d:" % number + b"z" * (number * 7 % 90), 1, NOON_MS)
        if number == 9:
            for _ in range(2):
                batch = await spool.next_batch()
                assert batch is not None
                await spool.ack(batch)
    left = _lines_of(spool)
    await spool.close()
    return left


def _harm_a_folder(folder: Path, chance: random.Random) -> tuple[str, set[str]]:
    """Do something to one file or two; what, and the names whose records may be lost."""
    segments = sorted(path for path in folder.glob("*.segment"))
    one, other = chance.sample(segments, 2)
    what = chance.choice(("cut", "flip", "overwrite", "delete", "empty", "copy", "swap", "tally", "no tally", "grow"))
    if what == "copy":
        shutil.copy(one, folder / name_of(chance.choice((50, 10**12))))
        return what, set()
    if what == "swap":
        spare = folder / "spare"
        one.rename(spare)
        other.rename(one)
        spare.rename(other)
        return what, set()
    if what == "tally":
        _harm_a_file(folder / TALLY, chance)
        return what, set()
    if what == "no tally":
        (folder / TALLY).unlink()
        return what, set()
    if what == "delete":
        one.unlink()
    elif what == "empty":
        one.write_bytes(b"")
    elif what == "grow":
        one.write_bytes(one.read_bytes() + chance.choice((chance.randbytes(70), other.read_bytes())))
        return what, set()
    else:
        _harm_a_file(one, chance)
    return what, {one.name}


def _harm_a_file(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    start = chance.randrange(len(data))
    if chance.random() < 0.4:
        del data[start:]
    else:
        end = min(len(data), start + chance.randint(1, 60))
        data[start:end] = bytes(byte ^ chance.randint(0, 255) for byte in data[start:end])
    path.write_bytes(data)


def _has_damage(path: Path) -> bool:
    return path.exists() and any(isinstance(one, Damage) for one in records(path.read_bytes()))


async def _delivered(spool: Spool) -> dict[str, list[bytes]]:
    """Deliver everything to a sink that keeps the last batch of each name, as the disk sink does; its lines by name."""
    sink: dict[str, list[bytes]] = {}
    spool.seal()
    while (batch := await spool.next_batch()) is not None:
        sink[batch.name] = list(batch.lines)
        await spool.ack(batch)
    return sink


async def test_a_spool_with_damaged_files_starts_and_delivers_every_whole_record(tmp_path: Path) -> None:
    template = tmp_path / "template"
    left = await _filled(template)
    by_file = {
        path.name: {one.lines for one in records(path.read_bytes()) if isinstance(one, Record)}
        for path in template.glob("*.segment")
    }
    written = {b"%d:" % number + b"z" * (number * 7 % 90) for number in range(30)}
    for seed in range(FOLDERS):
        folder, chance = tmp_path / str(seed), random.Random(seed)
        shutil.copytree(template, folder)
        what, hit = _harm_a_folder(folder, chance)
        must_tell = "tally" in what or any(_has_damage(folder / name) for name in hit)
        spool = Spool(folder, segment_events=4)
        found = _lines_of(spool)
        assert found <= written, what
        may_be_lost = {lines for name in hit for lines in by_file[name]}
        assert left - may_be_lost <= found, what
        assert spool.damage or not must_tell, what
        await spool.append(b"new", 1, NOON_MS)
        assert await asyncio.to_thread(wait_landed, folder, NOON_MS + 1, 0) > len(found)
        delivered = await _delivered(spool)
        assert {one for lines in delivered.values() for one in lines} == found | {b"new"}, what
        await spool.close()
        shutil.rmtree(folder)
    figure("spool folders harmed", folders=FOLDERS)


async def test_damage_to_a_running_spool_is_reported(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_events=1)
    for text in (b"removed", b"harmed", b"well"):
        await spool.append(text, 1, NOON_MS)
    removed, harmed, _ = (one.file.path for one in spool.segments())
    removed.unlink()
    harmed.write_bytes(harmed.read_bytes().replace(b"harmed", b"HARMED"))
    assert [one for lines in (await _delivered(spool)).values() for one in lines] == [b"well"]
    assert [name for name, _ in spool.damage] == [removed.name, harmed.name]
    assert spool.depth() == (0, 0)
    await spool.close()


async def test_an_empty_file_is_not_damage(tmp_path: Path) -> None:
    await Spool(tmp_path).close()
    (tmp_path / name_of(1)).touch()
    spool = Spool(tmp_path)
    assert (spool.damage, spool.segments()) == ([], [])
    assert not (tmp_path / name_of(1)).exists()
    await spool.close()


@pytest.mark.parametrize("damage", ["gone", "damaged"])
async def test_without_its_tally_a_spool_delivers_again_and_reuses_no_name(tmp_path: Path, damage: str) -> None:
    """The spool no longer knows what it delivered: a batch with an old name would replace a delivered file."""
    spool = Spool(tmp_path, segment_events=1)
    await spool.append(b"held", 1, NOON_MS, in_flight=True)
    for number in range(3):
        await spool.append(b"%d" % number, 1, NOON_MS)
    names = await _delivered(spool)
    assert [one.file.path.name for one in spool.segments()] == [name_of(1)]
    await spool.close()
    tally = tmp_path / TALLY
    if damage == "gone":
        tally.unlink()
    else:
        tally.write_bytes(tally.read_bytes().replace(b'"delivered":4', b'"delivered":7'))
    again = Spool(tmp_path, segment_events=1)
    assert [name for name, _ in again.damage] == [TALLY]
    await again.append(b"new", 1, NOON_MS)
    delivered = await _delivered(again)
    assert list(delivered.values()) == [[b"held"], [b"new"]]
    assert delivered.keys() & names.keys() == {next(iter(names))}, "the same records, the same name; no other"
    await again.close()


async def test_a_record_restored_by_a_power_cut_has_a_unique_id(tmp_path: Path) -> None:
    """The append failed and was truncated, but the truncation was not synced; the next process continued from the last
    acknowledged id."""
    spool = Spool(tmp_path)
    await spool.append(b"acknowledged", 1, NOON_MS)
    await spool.close()
    file = tmp_path / name_of(1)
    again = Spool(tmp_path)
    await again.append(b"acknowledged too", 1, NOON_MS)
    await again.close()
    file.write_bytes(file.read_bytes() + encode_head(2, b"failed", 1, NOON_MS) + b"failed")
    delivered: list[bytes] = []
    for _ in range(2):  # Two processes: the second knows only from the tally what is delivered.
        last = Spool(tmp_path)
        batch = await last.next_batch()
        assert batch is not None
        delivered += batch.lines
        await last.ack(batch)
        await last.close()
    assert delivered == [b"acknowledged", b"failed", b"acknowledged too"]
