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
    MAX_EXCLUDED_BYTES,
    TOP_CREATORS,
    TOP_FACET_VALUES,
    Packet,
    UserPart,
    decode,
    encode,
    first_that_fit,
    no_numbers,
    rounded,
    unknown_user,
    user_block,
)

GOLDEN = Path(__file__).parents[1] / "golden"
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
        retrieval=np.array([254, 255, 127], np.uint8),
        sources=np.array([source_bits(["followed", "topic"]), source_bits(["fresh"]), 0], np.uint8),
        user=user,
        forbidden=np.array([70_001], np.uint32),
        seen=np.array([0, 1, 2, 900, 4_294_967_295], np.uint32),
    )


def assert_same(read: Packet, written: Packet) -> None:
    assert written.user is not None
    halves = ("values", "creator_affinity", "facet_affinity")
    user: dict[str, Any] = {name: rounded(getattr(written.user, name)) for name in halves}
    stored = replace(written, user=replace(written.user, **user))
    np.testing.assert_equal(asdict(read), asdict(stored))


def test_writer_reproduces_the_stored_packet_of_format_2() -> None:
    assert encode(a_packet(), DIGEST) == (GOLDEN / "packet_v2.bin").read_bytes()


def test_reader_reads_the_stored_packet_of_format_2() -> None:
    assert_same(decode((GOLDEN / "packet_v2.bin").read_bytes(), DIGEST), a_packet())


def test_format_1_is_read_with_scores_as_quantiles_among_themselves() -> None:
    """Its scores are 0.75, none and -2.5."""
    none = no_numbers()
    assert_same(decode((GOLDEN / "packet_v1.bin").read_bytes(), DIGEST), replace(a_packet(), forbidden=none, seen=none))


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
    retrieval, sources = (draw(arrays.arrays(np.uint8, len(found))) for _ in range(2))
    sets = (np.unique(draw(numbers(most))) for most in (30, 30, 100, 300))
    return Packet(draw(st.integers(0, 2**32 - 1)), found, retrieval, sources, user, *sets)


@given(packets())
def test_what_is_written_is_read(packet: Packet) -> None:
    assert_same(decode(encode(packet, DIGEST), DIGEST), packet)


@given(packets())
def test_a_foreign_digest_keeps_the_candidates_without_the_user_part(packet: Packet) -> None:
    read = decode(encode(packet, OTHER_DIGEST), DIGEST)
    assert read.user is None
    np.testing.assert_array_equal(read.numbers, packet.numbers)
    np.testing.assert_array_equal(read.sources, packet.sources)


@pytest.mark.parametrize("version", [1, 2])
def test_every_cut_and_every_longer_packet_is_rejected(version: int) -> None:
    data = (GOLDEN / f"packet_v{version}.bin").read_bytes()
    for wrong in (*(data[:length] for length in range(len(data))), data + b"\0"):
        with pytest.raises(FormatError):
            decode(wrong, DIGEST)


def test_every_flipped_bit_is_rejected() -> None:
    """A packet of format 1 has no checksum: flipping its version makes one that is too long."""
    data = encode(a_packet(), DIGEST)
    for at in range(len(data) * 8):
        wrong = bytearray(data)
        wrong[at // 8] ^= 1 << at % 8
        with pytest.raises(FormatError):
            decode(bytes(wrong), DIGEST)


@given(st.sets(st.integers(0, 30_000), max_size=900).map(list))
def test_as_many_of_the_first_numbers_are_kept_as_fit(numbers: list[int]) -> None:
    kept, taken = first_that_fit(np.array(numbers, np.uint32), MAX_EXCLUDED_BYTES)
    assert taken <= MAX_EXCLUDED_BYTES
    assert kept.tolist() == sorted(numbers[: len(kept)])
    assert len(kept) >= min(len(numbers), 200)


@given(st.binary(max_size=200))
def test_garbage_is_rejected_or_read_but_never_crashes(data: bytes) -> None:
    try:
        read = decode(data, DIGEST)
    except FormatError:
        return
    assert len(read.numbers) == len(read.retrieval) == len(read.sources)


@pytest.mark.parametrize(("at", "value"), [(0, 0x51), (1, 0), (1, 3)])
def test_another_magic_or_version_is_rejected(at: int, value: int) -> None:
    data = bytearray(encode(a_packet(), DIGEST))
    data[at] = value
    with pytest.raises(FormatError, match="not readable"):
        decode(bytes(data), DIGEST)


def test_a_full_packet_stays_under_one_kilobyte() -> None:
    def of(count: int, kind: type = np.float32) -> tuple[np.ndarray, np.ndarray]:
        return np.arange(count, dtype=np.uint32), np.zeros(count, kind)

    user = UserPart(np.zeros(len(FeatureSet().user), np.float32), 0, 0, *of(TOP_CREATORS), *of(TOP_FACET_VALUES))
    packet = Packet(1, *of(MAX_CANDIDATES, np.uint8), np.zeros(MAX_CANDIDATES, np.uint8), user)
    listed = np.arange(0, 30_000, 1000, dtype=np.uint32)
    assert len(encode(packet, DIGEST)) == 710
    assert len(encode(replace(packet, engaged=listed, passed_over=listed), DIGEST)) < 990 - 150


def test_a_packet_over_the_limit_is_not_written() -> None:
    many = np.arange(700, dtype=np.uint32)
    packet = replace(a_packet(), numbers=many, retrieval=many.astype(np.uint8), sources=many.astype(np.uint8))
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
