import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pingfeed.core.features import (
    CONTEXT,
    FACET_WIDTH,
    NO_VALUE,
    REALTIME,
    SOURCES,
    FeatureSet,
    Float32,
    PingBlock,
    UserBlock,
    affinity_keys,
    assemble,
    language_code,
    place_code,
    place_name,
    source_bits,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "assemble_row.json"
FEATURES = FeatureSet(facets=("topics", "mood"), attributes=("loudness",))
NONE = NO_VALUE


def counted(width: int, step: float) -> Float32:
    """(1, width): step, 2 step, 3 step ..."""
    return (np.arange(1, width + 1)[None] * step).astype(np.float32)


def a_ping(**changes: Any) -> PingBlock:
    """One ping whose every value says which column it is: 1/4, 2/4, 3/4 ..."""
    values = counted(len(FEATURES.ping), 0.25)
    facets = np.full((1, 2, FACET_WIDTH), NONE, np.uint32)
    facets[0, 0, :3] = 7, 8, 9
    facets[0, 1, :1] = 20
    block = PingBlock(
        values,
        np.array([3], np.uint32),
        facets,
        np.array([place_code("BR")], np.uint32),
        np.array([language_code("pt-BR")], np.uint32),
    )
    return replace(block, **changes)


def a_user(**changes: Any) -> UserBlock:
    """One user who knows creator 3, two of the ping's three topics, and another mood."""
    block = UserBlock(
        values=counted(len(FEATURES.user), 0.125),
        country=np.array([place_code("BR")], np.uint32),
        language=np.array([language_code("en")], np.uint32),
        creator_keys=np.array([2, 3, 5], np.uint64),
        creator_values=np.array([9, 0.75, 9], np.float32),
        facet_keys=np.array([7, 9, 21], np.uint64),
        facet_values=np.array([0.5, -0.25, 9], np.float32),
        row=np.zeros(1, np.intp),
    )
    return replace(block, **changes)


def a_row(ping: PingBlock | None = None, user: UserBlock | None = None, **changes: Any) -> dict[str, float | None]:
    """The assembled row by name, null where unknown."""
    given: dict[str, Any] = {
        "hour": np.array([13], np.float32),
        "sources": np.array([source_bits(["followed", "collaborative", "fresh"])], np.uint8),
        "retrieval_score": np.array([0.375], np.float32),
        "realtime": np.array([[0.5, 1, 2, np.nan]], np.float32),
    }
    matrix = assemble(FEATURES, ping or a_ping(), user or a_user(), **(given | changes))
    assert matrix.shape == (1, len(FEATURES.names))
    assert matrix.dtype == np.float32
    values = matrix[0].tolist()
    return {name: None if value != value else value for name, value in zip(FEATURES.names, values, strict=True)}


def test_the_golden_row_has_every_group_in_order() -> None:
    golden = json.loads(GOLDEN.read_text())
    assert list(golden) == list(FEATURES.names)
    assert a_row() == golden


def test_every_feature_has_a_name_of_its_own_and_a_meaning() -> None:
    assert len(set(FEATURES.names)) == len(FEATURES.names)
    assert all(feature.meaning for feature in FEATURES.all)


def test_an_unknown_user_is_unknown_throughout() -> None:
    none = np.empty(0, np.uint64), np.empty(0, np.float32)
    unknown = np.full((1, len(FEATURES.user)), np.nan, np.float32)
    zero = np.zeros(1, np.uint32)
    row = a_row(user=UserBlock(unknown, zero, zero, *none, *none, np.zeros(1, np.intp)))
    about_user = [f.name for f in (*FEATURES.user, *FEATURES.affinity, *CONTEXT[1:])]
    assert [row[name] for name in about_user] == [None] * len(about_user)


@pytest.mark.parametrize(
    ("ping", "user", "name", "match"),
    [
        ({}, {}, "country_match", 1),
        ({"country": place_code("DE")}, {}, "country_match", 0),
        ({"country": 0}, {}, "country_match", None),
        ({}, {"language": 0}, "language_match", None),
        ({}, {"language": language_code("PT-pt")}, "language_match", 1),
    ],
)
def test_a_match_needs_both_sides_known_and_languages_match_by_their_primary_tag(
    ping: dict[str, int], user: dict[str, int], name: str, match: int | None
) -> None:
    changed = ({key: np.array([code], np.uint32) for key, code in side.items()} for side in (ping, user))
    assert a_row(a_ping(**next(changed)), a_user(**next(changed)))[name] == match


def test_no_source_bit_means_that_none_was_logged() -> None:
    row = a_row(sources=np.zeros(1, np.uint8))
    assert [row[f"source_{name}"] for name in SOURCES] == [None] * len(SOURCES)


def test_affinities_of_other_users_are_not_looked_up() -> None:
    row = np.array([1], np.intp)
    user = a_user(
        values=np.zeros((2, len(FEATURES.user)), np.float32),
        country=np.zeros(2, np.uint32),
        language=np.zeros(2, np.uint32),
        creator_keys=affinity_keys(np.array([0, 1], np.intp), np.array([3, 3], np.uint32)),
        creator_values=np.array([0.1, 0.9], np.float32),
        row=row,
    )
    assert a_row(user=user)["user_creator_affinity"] == np.float32(0.9)
    assert a_row(user=user)["user_topics_affinity_max"] is None


def test_padding_is_never_an_affinity() -> None:
    facets = np.full((1, 2, FACET_WIDTH), NONE, np.uint32)
    row = a_row(a_ping(facets=facets))
    assert [row[f"user_{f}_affinity_{k}"] for f in ("topics", "mood") for k in ("max", "mean")] == [None] * 4


@given(st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_a_row_does_not_depend_on_its_neighbours(n: int, seed: int) -> None:
    """Training, pre-scoring and serving assemble different numbers of rows: each must be the same to the bit."""
    pings, users, rest = _random_blocks(n, np.random.default_rng(seed))
    together = assemble(FEATURES, pings, users, *rest)
    for i in range(n):
        at = slice(i, i + 1)
        one = PingBlock(pings.values[at], pings.creator[at], pings.facets[at], pings.country[at], pings.language[at])
        alone = assemble(FEATURES, one, replace(users, row=users.row[at]), *(block[at] for block in rest))
        np.testing.assert_array_equal(alone[0], together[i])


def _random_blocks(n: int, rng: np.random.Generator) -> tuple[PingBlock, UserBlock, tuple[Any, ...]]:
    def floats(*shape: int) -> Float32:
        return np.where(rng.random(shape) < 0.2, np.nan, rng.normal(size=shape)).astype(np.float32)

    def keys() -> np.ndarray:
        users, numbers = rng.integers(0, 3, 20).astype(np.intp), rng.integers(0, 6, 20).astype(np.uint32)
        return np.unique(affinity_keys(users, numbers))

    facets = np.where(rng.random((n, 2, FACET_WIDTH)) < 0.4, NONE, rng.integers(0, 6, (n, 2, FACET_WIDTH)))
    places = rng.integers(0, 3, (4, max(n, 3))).astype(np.uint32)
    creators, values = keys(), keys()
    pings = PingBlock(
        floats(n, len(FEATURES.ping)),
        rng.integers(0, 6, n).astype(np.uint32),
        facets.astype(np.uint32),
        places[0, :n],
        places[1, :n],
    )
    users = UserBlock(
        floats(3, len(FEATURES.user)),
        places[2, :3],
        places[3, :3],
        creators,
        rng.normal(size=len(creators)).astype(np.float32),
        values,
        rng.normal(size=len(values)).astype(np.float32),
        rng.integers(0, 3, n).astype(np.intp),
    )
    sources = rng.integers(0, 256, n).astype(np.uint8)
    return pings, users, (floats(n), sources, floats(n), floats(n, len(REALTIME)))


def test_blocks_that_do_not_fit_the_feature_set_are_rejected() -> None:
    for width in (len(FEATURES.ping) + 1, len(FEATURES.ping) - 1):
        with pytest.raises((ValueError, AssertionError)):
            a_row(a_ping(values=np.zeros((1, width), np.float32)))


@pytest.mark.parametrize(
    "other",
    [
        FeatureSet(("topics",), ("loudness",)),
        FeatureSet(("mood", "topics"), ("loudness",)),
        FeatureSet(("topics", "mood"), ()),
        FeatureSet(("topics", "mood"), ("brightness",)),
    ],
)
def test_the_digest_changes_with_the_features(other: FeatureSet) -> None:
    assert other.digest != FEATURES.digest
    assert len(other.digest) == 16


def test_equal_feature_sets_have_one_digest() -> None:
    assert FeatureSet(("topics", "mood"), ("loudness",)).digest == FEATURES.digest


def test_source_bits_keep_the_order_that_packets_store() -> None:
    assert [source_bits([name]) for name in SOURCES] == [1, 2, 4, 8, 16, 32, 64, 128]
    assert source_bits(["fresh", "followed", "fresh"]) == 0b0100_0001


def test_codes_of_places_and_languages() -> None:
    assert place_name(place_code("BR")) == "BR"
    assert place_name(place_code(None)) is None
    assert place_code("ZZ") < 1 << 16
    assert language_code("pt-BR") == language_code("PT") != language_code("es")
    assert language_code(None) == 0
