"""The packet: one user's candidates and the user's own features, in under 1 KB of one binary attribute.

Format 2, little-endian, no padding; n candidates, U user values, c creator and f facet affinities:

    offset  size  what
    0       1     magic, 0x50
    1       1     format version, 2
    2       2     n, uint16
    4       4     tick of the packet, uint32
    8       8     feature digest
    16      1     U, uint8
    17      1     c, uint8
    18      1     f, uint8
    19      1     w, the width of every number of a ping, creator or facet value: 3 bytes, or 4 from 2^24 on
    20      2     country code, uint16 (`features.place_code`)
    22      4     language code, uint32 (`features.language_code`)
    26      4     CRC-32 of all other bytes, uint32
    30      wm    m = n + c + f numbers: pings, best first; creators, ascending; facet values, ascending
            1n    retrieval quantiles, uint8 (`features.retrieval_quantiles`): 0 to 254, 255 where there is no score
            1n    source bits, uint8 (`features.SOURCES`)
            2v    v = U + c + f float16: user values, affinities to the creators, to the facet values
            8     lengths of four sets of ping numbers, uint16
                  the sets (`_pack`): engaged with, passed over (both empty so far), forbidden, seen

100 candidates, 6 user values and 16 + 16 affinities are 710 bytes; forbidden and seen pings are at most 256 more. With
a user id of 36 bytes and what DynamoDB adds, that is one write unit.
A foreign digest leaves the user part unknown and the candidates usable:
ping numbers and sources mean the same under every digest.

A reader accepts this format and the one before. Format 1 ended its header at 26, had no width (4), no sets, and float16
scores (NaN for none) for the quantiles: they are read as the quantiles among the packet's own scores.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pingfeed.core.errors import FormatError
from pingfeed.core.features import FeatureSet, Float32, UInt8, UInt32, UserBlock, retrieval_quantiles

MAX_BYTES: Final = 4096
MAX_CANDIDATES: Final = 100
MAX_EXCLUDED_BYTES: Final = 256
"""Of the forbidden and the seen pings together."""
TOP_CREATORS: Final = 16
TOP_FACET_VALUES: Final = 16
"""How many of a user's strongest affinities a packet carries; weaker ones are unknown, in training too."""
TTL_S: Final = 35 * 86_400

_MAGIC: Final = 0x50
_VERSION: Final = 2
_HEADER: Final = struct.Struct("<BBHI8sBBBBHI")
_CHECKSUM: Final = struct.Struct("<I")
_LENGTHS: Final = struct.Struct("<4H")
_SET: Final = struct.Struct("<HBI")


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


def no_numbers() -> UInt32:
    """An empty set of ping numbers."""
    return np.empty(0, np.uint32)


@dataclass(frozen=True)
class Packet:
    """A decoded packet; `user` is None when it was written under another feature digest. The sets ascend."""

    tick: int
    numbers: UInt32  # (n,) best first
    retrieval: UInt8  # (n,) as `features.retrieval_quantiles` returns them
    sources: UInt8  # (n,)
    user: UserPart | None
    engaged: UInt32 = field(default_factory=no_numbers)
    passed_over: UInt32 = field(default_factory=no_numbers)
    forbidden: UInt32 = field(default_factory=no_numbers)
    """Hidden, or by a blocked creator."""
    seen: UInt32 = field(default_factory=no_numbers)


def encode(packet: Packet, digest: str) -> bytes:
    """A packet's bytes; values are rounded to float16 here and nowhere else.

    Raises FormatError above `MAX_BYTES`.
    """
    assert packet.user is not None, "a packet is written with its user part"
    user = packet.user
    counts = len(user.values), len(user.creators), len(user.facet_values)
    numbers = np.concatenate([packet.numbers, user.creators, user.facet_values]).astype("<u4")
    width = 3 if numbers.max(initial=0) < 1 << 24 else 4
    floats = np.concatenate([user.values, user.creator_affinity, user.facet_affinity]).astype("<f2")
    sets = [_pack(one) for one in (packet.engaged, packet.passed_over, packet.forbidden, packet.seen)]
    start = _MAGIC, _VERSION, len(packet.numbers), packet.tick, bytes.fromhex(digest)
    header = _HEADER.pack(*start, *counts, width, user.country, user.language)
    body = b"".join(
        [
            *(numbers.view(np.uint8).reshape(-1, 4)[:, :width].tobytes(), packet.retrieval.tobytes()),
            *(packet.sources.tobytes(), floats.tobytes(), _LENGTHS.pack(*map(len, sets)), *sets),
        ]
    )
    data = header + _CHECKSUM.pack(zlib.crc32(body, zlib.crc32(header))) + body
    if len(data) > MAX_BYTES:
        raise FormatError(f"a packet of {len(data)} bytes is over the limit of {MAX_BYTES}")
    return data


def decode(data: bytes, digest: str) -> Packet:
    """The packet in `data`; FormatError if it is damaged or of a version that this code does not read."""
    if len(data) < _HEADER.size:
        raise FormatError(f"a packet of {len(data)} bytes has no header")
    magic, version, n, tick, written_under, u, c, f, width, country, language = _HEADER.unpack_from(data)
    if magic != _MAGIC or version not in _READ:
        raise FormatError(f"a packet of format {version} (magic {magic:#x}) is not readable here")
    try:
        numbers, retrieval, sources, floats, sets = _READ[version](data, n, u, c, f, width)
    except (ValueError, IndexError, struct.error) as error:
        raise FormatError(f"a packet of {len(data)} bytes is damaged: {error}") from error
    user = None
    if written_under.hex() == digest:
        creators, facet_values = numbers[n : n + c], numbers[n + c :]
        user = UserPart(floats[:u], country, language, creators, floats[u : u + c], facet_values, floats[u + c :])
    return Packet(tick, numbers[:n], retrieval, sources, user, *sets)


_Parts = tuple[UInt32, UInt8, UInt8, Float32, list[UInt32]]


def _read_1(data: bytes, n: int, u: int, c: int, f: int, _: int) -> _Parts:
    lengths = [4 * n, 2 * n, n, 2 * u, 4 * c, 2 * c, 4 * f, 2 * f]
    pings, scores, sources, values, *affinities = _cut(data, _HEADER.size, lengths)
    numbers = np.frombuffer(pings + affinities[0] + affinities[2], "<u4")
    floats = np.frombuffer(scores + values + affinities[1] + affinities[3], "<f2").astype(np.float32)
    own = floats[:n]
    retrieval = retrieval_quantiles(own, own[~np.isnan(own)])
    return numbers, retrieval, np.frombuffer(sources, np.uint8), floats[n:], []


def _read_2(data: bytes, n: int, u: int, c: int, f: int, width: int) -> _Parts:
    at = _HEADER.size + _CHECKSUM.size
    if _CHECKSUM.unpack_from(data, _HEADER.size)[0] != zlib.crc32(data[at:], zlib.crc32(data[: _HEADER.size])):
        raise ValueError("its checksum does not match")
    m, after = n + c + f, at + width * (n + c + f) + 2 * n + 2 * (u + c + f)
    lengths = [width * m, n, n, 2 * (u + c + f), _LENGTHS.size, *_LENGTHS.unpack_from(data, after)]
    packed, retrieval, sources, floats, _, *sets = _cut(data, at, lengths)
    numbers = np.zeros((m, 4), np.uint8)
    numbers[:, :width] = np.frombuffer(packed, np.uint8).reshape(m, width)
    return (
        numbers.view("<u4").ravel(),
        np.frombuffer(retrieval, np.uint8),
        np.frombuffer(sources, np.uint8),
        np.frombuffer(floats, "<f2").astype(np.float32),
        [_unpack(one) for one in sets],
    )


_READ: Final = {1: _read_1, _VERSION: _read_2}


def _cut(data: bytes, at: int, lengths: Sequence[int]) -> list[bytes]:
    """`data` from `at` on in pieces; ValueError unless they are the rest of it exactly."""
    ends = list(accumulate(lengths, initial=at))
    if ends[-1] != len(data):
        raise ValueError("its length does not fit its header")
    return [data[start:end] for start, end in pairwise(ends)]


def _pack(numbers: UInt32) -> bytes:
    """A set of ascending numbers, each in about 2 bits more than the logarithm of the mean gap (Elias-Fano).

    Count, k, first number; then bits: of each number's distance from the first the upper part in unary (the i-th 1 is
    at that part plus i), then the lowest k bits of each distance. Nothing for an empty set.
    """
    if not (n := len(numbers)):
        return b""
    distance = (numbers - numbers[0]).astype("<u4")
    k = max(0, int(distance[-1] // n).bit_length() - 1)
    ones = (distance >> k) + np.arange(n)
    bits = np.zeros(ones[-1] + 1, np.uint8)
    bits[ones] = 1
    lowest = np.unpackbits(distance.view(np.uint8).reshape(n, 4), axis=1, count=k, bitorder="little")
    return _SET.pack(n, k, numbers[0]) + np.packbits(np.concatenate([bits, lowest.ravel()])).tobytes()


def _unpack(packed: bytes) -> UInt32:
    if not packed:
        return no_numbers()
    n, k, first = _SET.unpack_from(packed)
    bits = np.unpackbits(np.frombuffer(packed, np.uint8, offset=_SET.size))
    ones = np.flatnonzero(bits)[:n]
    lowest = np.zeros((n, 32), np.uint8)
    lowest[:, :k] = bits[ones[-1] + 1 :][: n * k].reshape(n, k)
    distance = np.packbits(lowest, bitorder="little").view("<u4")
    numbers: NDArray[np.int64] = first + (ones - np.arange(n) << k) + distance
    return numbers.astype(np.uint32)


def first_that_fit(numbers: UInt32, room: int) -> tuple[UInt32, int]:
    """As many of the first `numbers` as a packed set holds in `room` bytes, ascending, and the bytes it takes."""
    count, over = 0, len(numbers) + 1
    trial = len(numbers)
    while over - count > 1:
        fits = len(_pack(np.sort(numbers[:trial]))) <= room
        count, over = (trial, over) if fits else (count, trial)
        trial = (count + over) // 2
    kept = np.sort(numbers[:count])
    return kept, len(_pack(kept))


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
