from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pingfeed.core.errors import FormatError
from pingfeed.core.features import FeatureSet, affinity_keys, language_code, place_code, source_bits
from pingfeed.core.packet import (
    MAX_CANDIDATES,
    TOP_CREATORS,
    TOP_FACET_VALUES,
    Packet,
    UserPart,
    decode,
    encode,
    rounded,
    unknown_user,
    user_block,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "packet_v1.bin"
DIGEST = "00112233445566ff"
OTHER_DIGEST = "ff66554433221100"


def a_packet() -> Packet:
    user = UserPart(
        values=np.array([0.5, 1.25, np.nan, 0, 60_000, 3.140625], np.float32),
        country=place_code("BR"),
        language=language_code("pt-BR"),
        creators=np.array([3, 70_000], np.uint32),
        creator_affinity=np.array([-0.25, 2], np.float32),
        facet_values=np.array([1, 9, 4_000_000_000], np.uint32),
        facet_affinity=np.array([0.125, -1, 0.5], np.float32),
    )
    return Packet(
        tick=1_994_832,
        numbers=np.array([42, 7, 4_294_967_294], np.uint32),
        scores=np.array([0.75, np.nan, -2.5], np.float32),
        sources=np.array([source_bits(["followed", "topic"]), source_bits(["fresh"]), 0], np.uint8),
        user=user,
    )


def assert_same(read: Packet, written: Packet) -> None:
    assert written.user is not None
    halves = ("values", "creator_affinity", "facet_affinity")
    user: dict[str, Any] = {name: rounded(getattr(written.user, name)) for name in halves}
    stored = replace(written, scores=rounded(written.scores), user=replace(written.user, **user))
    np.testing.assert_equal(asdict(read), asdict(stored))


def test_writer_reproduces_the_stored_packet_of_format_1() -> None:
    assert encode(a_packet(), DIGEST) == GOLDEN.read_bytes()


def test_reader_reads_the_stored_packet_of_format_1() -> None:
    assert_same(decode(GOLDEN.read_bytes(), DIGEST), a_packet())


floats = st.floats(-1e4, 1e4, width=16) | st.just(float("nan"))


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    def numbers(most: int) -> st.SearchStrategy[np.ndarray]:
        return arrays.arrays(np.uint32, st.integers(0, most), elements=st.integers(0, 2**32 - 1))

    def values(count: int) -> np.ndarray:
        return draw(arrays.arrays(np.float32, count, elements=floats))

    found = draw(numbers(MAX_CANDIDATES))
    creators, facets = np.sort(draw(numbers(TOP_CREATORS))), np.sort(draw(numbers(TOP_FACET_VALUES)))
    user = UserPart(
        values(draw(st.integers(0, 12))),
        draw(st.integers(0, 2**16 - 1)),
        draw(st.integers(0, 2**32 - 1)),
        creators,
        values(len(creators)),
        facets,
        values(len(facets)),
    )
    sources = draw(arrays.arrays(np.uint8, len(found)))
    return Packet(draw(st.integers(0, 2**32 - 1)), found, values(len(found)), sources, user)


@given(packets())
def test_what_is_written_is_read(packet: Packet) -> None:
    assert_same(decode(encode(packet, DIGEST), DIGEST), packet)


@given(packets())
def test_a_foreign_digest_keeps_the_candidates_without_the_user_part(packet: Packet) -> None:
    read = decode(encode(packet, OTHER_DIGEST), DIGEST)
    assert read.user is None
    np.testing.assert_array_equal(read.numbers, packet.numbers)
    np.testing.assert_array_equal(read.sources, packet.sources)


def test_every_cut_and_every_longer_packet_is_rejected() -> None:
    data = encode(a_packet(), DIGEST)
    for wrong in (*(data[:length] for length in range(len(data))), data + b"\0"):
        with pytest.raises(FormatError):
            decode(wrong, DIGEST)


@given(st.binary(max_size=200))
def test_garbage_is_rejected_or_read_but_never_crashes(data: bytes) -> None:
    try:
        read = decode(data, DIGEST)
    except FormatError:
        return
    assert len(read.numbers) == len(read.scores) == len(read.sources)


@pytest.mark.parametrize(("at", "value"), [(0, 0x51), (1, 0), (1, 2)])
def test_another_magic_or_version_is_rejected(at: int, value: int) -> None:
    data = bytearray(encode(a_packet(), DIGEST))
    data[at] = value
    with pytest.raises(FormatError, match="not readable"):
        decode(bytes(data), DIGEST)


def test_a_full_packet_stays_under_one_kilobyte() -> None:
    def of(count: int) -> tuple[np.ndarray, np.ndarray]:
        return np.arange(count, dtype=np.uint32), np.zeros(count, np.float32)

    user = UserPart(np.zeros(len(FeatureSet().user), np.float32), 0, 0, *of(TOP_CREATORS), *of(TOP_FACET_VALUES))
    packet = Packet(1, *of(MAX_CANDIDATES), np.zeros(MAX_CANDIDATES, np.uint8), user)
    assert len(encode(packet, DIGEST)) < 1024


def test_a_packet_over_the_limit_is_not_written() -> None:
    many = np.arange(600, dtype=np.uint32)
    packet = replace(a_packet(), numbers=many, scores=many.astype(np.float32), sources=many.astype(np.uint8))
    with pytest.raises(FormatError, match="over the limit"):
        encode(packet, DIGEST)


def test_an_unknown_user_has_no_value_and_no_affinity() -> None:
    user = unknown_user(FeatureSet())
    assert np.isnan(user.values).all()
    assert len(user.values) == len(FeatureSet().user)
    assert (user.country, user.language, len(user.creators), len(user.facet_values)) == (0, 0, 0, 0)


def test_a_user_block_is_keyed_as_assemble_looks_it_up() -> None:
    user = a_packet().user
    assert user is not None
    block = user_block(user, 4)
    np.testing.assert_array_equal(block.creator_keys, affinity_keys(np.zeros(2, np.intp), user.creators))
    np.testing.assert_array_equal(block.facet_keys, affinity_keys(np.zeros(3, np.intp), user.facet_values))
    assert block.row.tolist() == [0, 0, 0, 0]
