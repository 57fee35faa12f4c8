"""The packet: one user's candidates and the user's own features, in under 1 KB of one binary attribute.

Format 1, little-endian, no padding; n candidates, U user values, c creator and f facet affinities:

    offset  size  what
    0       1     magic, 0x50
    1       1     format version, 1
    2       2     n, uint16
    4       4     tick of the packet, uint32
    8       8     feature digest
    16      1     U, uint8
    17      1     c, uint8
    18      1     f, uint8
    19      1     0
    20      2     country code, uint16 (`features.place_code`)
    22      4     language code, uint32 (`features.language_code`)
    26      4n    ping numbers, uint32, best first
            2n    retrieval scores, float16, NaN where there is none
            1n    source bits, uint8 (`features.SOURCES`)
            2U    user values, float16
            4c 2c creator numbers uint32, their affinities float16
            4f 2f facet value numbers uint32, their affinities float16

100 candidates, 6 user values and 16 + 16 affinities are 930 bytes. Creator and facet numbers are stored ascending.
A reader accepts this version and the one before (there is none yet). A foreign digest leaves the user part unknown and
the candidates usable: ping numbers and sources mean the same under every digest.
"""

import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pingfeed.core.errors import FormatError
from pingfeed.core.features import FeatureSet, Float32, UInt32, UserBlock

MAX_BYTES: Final = 4096
MAX_CANDIDATES: Final = 100
TOP_CREATORS: Final = 16
TOP_FACET_VALUES: Final = 16
"""How many of a user's strongest affinities a packet carries; weaker ones are unknown, in training too."""
TTL_S: Final = 35 * 86_400

_MAGIC: Final = 0x50
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<BBHI8sBBBBHI")


@dataclass(frozen=True)
class UserPart:
    """One user's features as the ranker sees them."""

    values: Float32  # (U,)
    country: int
    language: int
    creators: UInt32  # ascending
    creator_affinity: Float32
    facet_values: UInt32  # ascending
    facet_affinity: Float32


@dataclass(frozen=True)
class Packet:
    """A decoded packet; `user` is None when it was written under another feature digest."""

    tick: int
    numbers: UInt32  # (n,) best first
    scores: Float32  # (n,)
    sources: NDArray[np.uint8]  # (n,)
    user: UserPart | None


def encode(packet: Packet, digest: str) -> bytes:
    """A packet's bytes; values are rounded to float16 here and nowhere else.

    Raises FormatError above `MAX_BYTES`.
    """
    assert packet.user is not None, "a packet is written with its user part"
    user = packet.user
    counts = len(user.values), len(user.creators), len(user.facet_values)
    start = _MAGIC, _VERSION, len(packet.numbers), packet.tick, bytes.fromhex(digest)
    header = _HEADER.pack(*start, *counts, 0, user.country, user.language)
    parts: list[tuple[NDArray[np.generic], str]] = [
        (packet.numbers, "<u4"),
        (packet.scores, "<f2"),
        (packet.sources, "u1"),
        (user.values, "<f2"),
        (user.creators, "<u4"),
        (user.creator_affinity, "<f2"),
        (user.facet_values, "<u4"),
        (user.facet_affinity, "<f2"),
    ]
    data = header + b"".join(array.astype(kind).tobytes() for array, kind in parts)
    if len(data) > MAX_BYTES:
        raise FormatError(f"a packet of {len(data)} bytes is over the limit of {MAX_BYTES}")
    return data


def decode(data: bytes, digest: str) -> Packet:
    """The packet in `data`; FormatError if it is cut short, too long or of a version that this code does not read."""
    if len(data) < _HEADER.size:
        raise FormatError(f"a packet of {len(data)} bytes has no header")
    magic, version, n, tick, written_under, u, c, f, _, country, language = _HEADER.unpack_from(data)
    if magic != _MAGIC or version != _VERSION:
        raise FormatError(f"a packet of format {version} (magic {magic:#x}) is not readable here")
    if len(data) != _HEADER.size + 7 * n + 2 * u + 6 * c + 6 * f:
        raise FormatError(f"a packet of {len(data)} bytes does not fit its header")
    read = _Reader(data, _HEADER.size)
    numbers, scores, sources = read(n, "<u4"), read.floats(n), read(n, "u1")
    user = None
    if written_under.hex() == digest:
        values = read.floats(u)
        creators, creator_affinity = read(c, "<u4"), read.floats(c)
        user = UserPart(values, country, language, creators, creator_affinity, read(f, "<u4"), read.floats(f))
    return Packet(tick, numbers, scores, sources, user)


class _Reader:
    """Takes one array after the other off a packet's bytes."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at

    def __call__(self, count: int, kind: str) -> NDArray[Any]:
        array = np.frombuffer(self._data, kind, count, self._at)
        self._at += array.nbytes
        return array

    def floats(self, count: int) -> Float32:
        return self(count, "<f2").astype(np.float32)


def rounded(values: Float32) -> Float32:
    """What a packet makes of float32 values: the float16 that it stores, read back. Training applies it too."""
    return values.astype("<f2").astype(np.float32)


def unknown_user(features: FeatureSet) -> UserPart:
    """A user without any values or affinities."""
    none = np.empty(0, np.uint32), np.empty(0, np.float32)
    return UserPart(np.full(len(features.user), np.nan, np.float32), 0, 0, *none, *none)


def user_block(user: UserPart, n: int) -> UserBlock:
    """One user's part as the block that `assemble` takes for n of their rows."""
    return UserBlock(
        values=user.values[None, :],
        country=np.array([user.country], np.uint32),
        language=np.array([user.language], np.uint32),
        creator_keys=user.creators.astype(np.uint64),
        creator_values=user.creator_affinity,
        facet_keys=user.facet_values.astype(np.uint64),
        facet_values=user.facet_affinity,
        row=np.zeros(n, np.intp),
    )
