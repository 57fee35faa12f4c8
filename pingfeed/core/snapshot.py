"""The snapshot: every servable ping's features in one file that is read whole, swapped without a pause.

Format 2, little-endian:

    offset  size  what
    0       8     magic "PFSNAP\\x00\\x02", the last byte is the version
    8       8     length of the JSON header, uint64
    16            JSON header: {"tick", "digest", "facets", "columns": {name: [dtype, shape, offset]}, "lists": {...}}
                  then each column's bytes at its offset, a multiple of 64 from the file's start

The header names the columns: a reader skips those that it does not know, and takes those of `_OPTIONAL` that are absent
as unknown, so a new column needs no new format. Format 1 has the same layout with every column of today.

Rows are pings in ascending ping number. A ping number is assigned once and never reused, so an old packet reads with a
new snapshot. Strings are a uint32 offsets column and a uint8 bytes column. `lists` names ranges of the column
`list_rows` that hold row numbers, best first: `fresh`, `evergreen`, `trending` and `trending:<country>`. Each creator's
rows lie newest first in `creator_rows`, from `creator_at[i]` to `creator_at[i + 1]` for the i-th of `creator_numbers`.
Ids are found by the first 8 bytes of their BLAKE2b, sorted in `*_hash` with the row in `*_hash_row`. The names of
topics, which users mute and choose, are in `topic_bytes` in the order of `topic_numbers`; absent ones are unknown.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from pingfeed.core.errors import FormatError
from pingfeed.core.features import FACET_WIDTH, NO_VALUE, Float32, PingBlock, UInt32

MAGIC: Final = b"PFSNAP\x00\x02"
_READ: Final = (b"PFSNAP\x00\x01", MAGIC)
TOPICS: Final = "topics"
"""The facet whose values are topics."""
_ALIGN: Final = 64
Rows = NDArray[np.intp]
Array = NDArray[Any]


_OPTIONAL: Final[Mapping[str, int]] = {"country": 0, "language": 0, "created_tick": 0, "impressions": 0}
"""Columns of uint32 with one value a ping, and the value that says that it is unknown."""


class _Header(msgspec.Struct):
    tick: int
    digest: str
    facets: list[str]
    columns: dict[str, tuple[str, list[int], int]]
    lists: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class SnapshotContent:
    """What the batch side puts into a snapshot of n pings and c creators; rows ascend by ping number."""

    tick: int
    digest: str
    facets: tuple[str, ...]
    ping_ids: Sequence[str]
    numbers: UInt32  # (n,)
    created_tick: UInt32  # (n,) the tick that learned of the ping
    impressions: UInt32  # (n,) of 30 days: what exploration looks at
    pings: PingBlock  # n rows
    creator_ids: Mapping[int, str]  # creator number -> id, of at least the creators in `pings`
    lists: Mapping[str, Sequence[int]]  # name -> rows, best first
    topics: Mapping[int, str] = field(default_factory=dict)  # number -> name, of the topics in `pings`
    more: Mapping[str, Array] = field(default_factory=dict)  # further columns, for readers that know their names


def write(content: SnapshotContent) -> bytes:
    """The file's bytes."""
    rows, lists = _pack_lists(content.lists)
    creators = np.array(sorted(content.creator_ids), np.uint32)
    columns: dict[str, Array] = {
        "number": content.numbers,
        "values": content.pings.values,
        "creator": content.pings.creator,
        "facet_values": content.pings.facets.reshape(len(content.numbers), len(content.facets) * FACET_WIDTH),
        "country": content.pings.country,
        "language": content.pings.language,
        "created_tick": content.created_tick,
        "impressions": content.impressions,
        "list_rows": rows,
        "creator_numbers": creators,
        **_newest_by_creator(content.pings.creator, content.created_tick, content.numbers, creators),
        **_strings("ping_id", content.ping_ids),
        **_strings("creator_id", [content.creator_ids[int(c)] for c in creators]),
        **content.more,
    }
    if content.topics:
        topics = sorted(content.topics)
        names = _strings("topic", [content.topics[number] for number in topics])
        columns |= names | {"topic_numbers": np.array(topics, np.uint32)}
    return _lay_out(content, columns, lists)


def _lay_out(content: SnapshotContent, columns: Mapping[str, Array], lists: dict[str, tuple[int, int]]) -> bytes:
    """Header and columns; the header's length settles the offsets, so it is padded to a length that holds them all."""
    header_bytes = 4096 + 128 * (len(columns) + len(lists))
    at = -(-(16 + header_bytes) // _ALIGN) * _ALIGN
    placed: dict[str, tuple[str, list[int], int]] = {}
    for name, column in columns.items():
        placed[name] = (column.dtype.str, list(column.shape), at)
        at += -(-column.nbytes // _ALIGN) * _ALIGN
    header = msgspec.json.encode(_Header(content.tick, content.digest, list(content.facets), placed, lists))
    assert len(header) <= header_bytes, "a column or list name is too long"
    data = bytearray(at)
    data[:16] = MAGIC + header_bytes.to_bytes(8, "little")
    data[16 : 16 + header_bytes] = header.ljust(header_bytes)
    for name, column in columns.items():
        start = placed[name][2]
        data[start : start + column.nbytes] = np.ascontiguousarray(column).tobytes()
    return bytes(data)


def _pack_lists(lists: Mapping[str, Sequence[int]]) -> tuple[UInt32, dict[str, tuple[int, int]]]:
    ranges: dict[str, tuple[int, int]] = {}
    rows: list[int] = []
    for name, members in lists.items():
        ranges[name] = (len(rows), len(members))
        rows.extend(members)
    return np.array(rows, np.uint32), ranges


def _newest_by_creator(creator: UInt32, created: UInt32, number: UInt32, creators: UInt32) -> dict[str, Array]:
    order = np.lexsort((-number.astype(np.int64), -created.astype(np.int64), creator))
    at = np.searchsorted(creator[order], np.append(creators.astype(np.int64), 1 << 32))
    return {"creator_rows": order.astype(np.uint32), "creator_at": at.astype(np.uint32)}


def _strings(name: str, values: Sequence[str]) -> dict[str, Array]:
    encoded = [value.encode("utf-8", "replace") for value in values]
    at = np.zeros(len(encoded) + 1, np.uint32)
    np.cumsum([len(e) for e in encoded], out=at[1:])
    hashes = np.array([_hash(value) for value in values], np.uint64)
    order = np.argsort(hashes, kind="stable")
    return {
        f"{name}_at": at,
        f"{name}_bytes": np.frombuffer(b"".join(encoded), np.uint8),
        f"{name}_hash": hashes[order],
        f"{name}_hash_row": order.astype(np.uint32),
    }


def _digest(value: str) -> bytes:
    return hashlib.blake2b(value.encode("utf-8", "replace"), digest_size=8).digest()


def _hash(value: str) -> int:
    return int.from_bytes(_digest(value), "little")


class Snapshot:
    """A snapshot in memory: the process keeps its own copy, which no change of the file can reach.

    Rows are positions in it, valid for this snapshot only; absent rows are -1.
    """

    def __init__(self, data: bytes, digest: str | None = None) -> None:
        if data[:8] not in _READ:
            raise FormatError(f"not a snapshot of a format up to {MAGIC[-1]}")
        length = int.from_bytes(data[8:16], "little")
        try:
            header = msgspec.json.decode(data[16 : 16 + length], type=_Header)
            columns = {n: _view(data, *place) for n, place in header.columns.items()}
            self._take(header, columns)
        except (msgspec.DecodeError, ValueError, TypeError, LookupError) as error:
            raise FormatError(f"the snapshot is damaged: {error}") from error
        if digest is not None and self.digest != digest:
            raise FormatError(f"the snapshot is of feature digest {self.digest}, this program's is {digest}")

    def _take(self, header: _Header, columns: Mapping[str, Array]) -> None:
        self.tick = header.tick
        self.digest = header.digest
        self.facets = tuple(header.facets)
        self.numbers: UInt32 = columns["number"]
        n, facets = len(self.numbers), len(header.facets)
        unknown: dict[str, Array] = {name: np.full(n, value, np.uint32) for name, value in _OPTIONAL.items()}
        unknown["facet_values"] = np.full((n, facets * FACET_WIDTH), NO_VALUE, np.uint32)
        columns = unknown | dict(columns)
        self.values: Float32 = columns["values"]
        self.creator: UInt32 = columns["creator"]
        self.facet_values: UInt32 = columns["facet_values"].reshape(n, facets, FACET_WIDTH)
        self.country: UInt32 = columns["country"]
        self.language: UInt32 = columns["language"]
        self.created_tick: UInt32 = columns["created_tick"]
        self.impressions: UInt32 = columns["impressions"]
        self.topics: UInt32 = (
            self.facet_values[:, self.facets.index(TOPICS)]
            if TOPICS in self.facets
            else np.full((len(self.numbers), 1), NO_VALUE, np.uint32)
        )
        self._columns = columns
        numbers = columns.get("topic_numbers", np.empty(0, np.uint32)).tolist()
        self.topic_names = {number: self._string("topic", at) for at, number in enumerate(numbers)}
        self.topic_numbers = {name: number for number, name in self.topic_names.items()}
        self._lists = header.lists
        if any(len(columns[name]) != n for name in ("values", "creator", *_OPTIONAL)):
            raise ValueError("its columns are not of one length")
        if any(len(columns[name]) and columns[name].max() >= n for name in ("list_rows", "creator_rows")):
            raise ValueError("a list names a row that is not there")

    @classmethod
    def open(cls, path: Path, digest: str | None = None) -> "Snapshot":
        """Read the file at `path`; FormatError if it is damaged or of another feature digest."""
        return cls(path.read_bytes(), digest)

    def __len__(self) -> int:
        return len(self.numbers)

    def block(self, rows: Rows) -> PingBlock:
        """The features of these rows, as `assemble` takes them."""
        return PingBlock(
            self.values[rows], self.creator[rows], self.facet_values[rows], self.country[rows], self.language[rows]
        )

    def rows_of_numbers(self, numbers: UInt32) -> Rows:
        """The row of each ping number."""
        return _find(self.numbers, numbers)

    def row_of_ping(self, ping_id: str) -> int:
        """The row of a ping id."""
        return self._row_of("ping_id", ping_id)

    def creator_number(self, creator_id: str) -> int | None:
        """The number of a creator id, None if the creator has no servable ping."""
        at = self._row_of("creator_id", creator_id)
        return int(self._columns["creator_numbers"][at]) if at >= 0 else None

    def ping_id(self, row: int) -> str:
        """The id of the ping in this row."""
        return self._string("ping_id", row)

    def creator_id(self, row: int) -> str:
        """The id of the creator of the ping in this row."""
        return self._string("creator_id", int(np.searchsorted(self._columns["creator_numbers"], self.creator[row])))

    def ping_ids(self, rows: Rows) -> list[str]:
        """The ids of the pings in these rows, ten times faster than one at a time."""
        return self._strings_at("ping_id", rows)

    def creator_ids(self, rows: Rows) -> list[str]:
        """The ids of the creators of the pings in these rows."""
        return self._strings_at("creator_id", np.searchsorted(self._columns["creator_numbers"], self.creator[rows]))

    def rows_of_pings(self, ping_ids: Sequence[str]) -> Rows:
        """The row of each ping id."""
        hashes = self._columns["ping_id_hash"]
        if not len(hashes) or not ping_ids:
            return np.full(len(ping_ids), -1, np.intp)
        wanted = np.frombuffer(b"".join(map(_digest, ping_ids)), "<u8")
        at = np.minimum(np.searchsorted(hashes, wanted), len(hashes) - 1)
        rows = np.where(hashes[at] == wanted, self._columns["ping_id_hash_row"][at].astype(np.intp), -1)
        found = np.flatnonzero(rows >= 0)
        for i, ping_id in zip(found.tolist(), self.ping_ids(rows[found]), strict=True):
            if ping_id != ping_ids[i]:  # two ids of one hash
                rows[i] = self.row_of_ping(ping_ids[i])
        return rows

    def newest_of(self, creator_number: int, limit: int) -> Rows:
        """Rows of the creator's pings, newest first."""
        numbers = self._columns["creator_numbers"]
        at = int(numbers.searchsorted(np.uint32(creator_number)))
        if at >= len(numbers) or numbers[at] != creator_number:
            return np.empty(0, np.intp)
        start, end = self._columns["creator_at"][at : at + 2].tolist()
        return self._columns["creator_rows"][start : min(end, start + limit)].astype(np.intp)

    def listed(self, name: str, limit: int | None = None) -> Rows:
        """Rows of a named list, best first; empty if there is no such list."""
        start, count = self._lists.get(name, (0, 0))
        count = count if limit is None else min(count, limit)
        return self._columns["list_rows"][start : start + count].astype(np.intp)

    def _string(self, name: str, at: int) -> str:
        start, end = self._columns[f"{name}_at"][at : at + 2].tolist()
        return str(self._columns[f"{name}_bytes"].data[start:end], "utf-8")

    def _strings_at(self, name: str, at: Rows) -> list[str]:
        places, data = self._columns[f"{name}_at"], self._columns[f"{name}_bytes"].data
        ends = places[at + 1].tolist()
        return [str(data[start:end], "ascii") for start, end in zip(places[at].tolist(), ends, strict=True)]

    def _row_of(self, name: str, value: str) -> int:
        hashes = self._columns[f"{name}_hash"]
        wanted = _hash(value)
        at = int(hashes.searchsorted(np.uint64(wanted)))
        while at < len(hashes) and int(hashes[at]) == wanted:
            row = int(self._columns[f"{name}_hash_row"][at])
            if self._string(name, row) == value:
                return row
            at += 1
        return -1


def _view(data: bytes, dtype: str, shape: Sequence[int], offset: int) -> Array:
    count = int(np.prod(shape))
    if count == 0:
        return np.empty(shape, dtype)
    return np.frombuffer(data, dtype, count, offset).reshape(shape)


def _find(ascending: UInt32, wanted: UInt32) -> Rows:
    if not len(ascending):
        return np.full(len(wanted), -1, np.intp)
    at = np.minimum(np.searchsorted(ascending, wanted), len(ascending) - 1)
    return np.where(ascending[at] == wanted, at, -1)
