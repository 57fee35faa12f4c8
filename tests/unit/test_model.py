import lightgbm
import msgspec
import numpy as np
import pytest

from pingfeed.core.errors import FormatError
from pingfeed.core.features import FeatureSet, Float32
from pingfeed.core.ranker import FallbackRanker, Manifest, load, model_key, pointer_key, snapshot_key
from tests.unit.small_model import FEATURES, manifest, train

WIDTH = len(FEATURES.all)


@pytest.fixture(scope="module")
def booster() -> lightgbm.Booster:
    return train()


@pytest.fixture(scope="module")
def text(booster: lightgbm.Booster) -> bytes:
    return booster.model_to_string().encode()


def rows(n: int = 200) -> Float32:
    rng = np.random.default_rng(7)
    values = rng.normal(size=(n, WIDTH)).astype(np.float32)
    return np.where(rng.random(values.shape) < 0.2, np.float32(np.nan), values)


@pytest.mark.parametrize("matrix", [rows(), np.asfortranarray(rows()), rows(0)], ids=["rows", "columns", "none"])
def test_scores_are_those_of_the_lightgbm_package(booster: lightgbm.Booster, text: bytes, matrix: Float32) -> None:
    expected = booster.predict(rows(), num_threads=1)[: len(matrix)]
    np.testing.assert_array_equal(load(manifest(), text, FEATURES).predict(matrix), expected)


def test_the_ranker_carries_what_its_manifest_says(text: bytes) -> None:
    ranker = load(manifest(learned_realtime=["just_followed"]), text, FEATURES)
    assert (ranker.model_id, ranker.score_std) == ("m1", 0.5)
    assert ranker.learned_realtime == {"just_followed"}


OF_OTHERS = manifest(digest="0" * 16)


@pytest.mark.parametrize(
    ("damaged", "names"),
    [(OF_OTHERS, "feature digest"), *((one, "manifest") for one in (b"", b"{", b"{}", b'{"model_id": 1}'))],
)
def test_a_manifest_that_is_damaged_or_of_other_features_is_rejected(damaged: bytes, names: str, text: bytes) -> None:
    with pytest.raises(FormatError, match=names):
        load(damaged, text, FEATURES)


def test_a_model_that_is_damaged_or_cut_anywhere_is_rejected(text: bytes) -> None:
    cuts = range(0, text.index(b"end of parameters"), len(text) // 40)
    for damaged in (b"not a model", *(text[:length] for length in cuts)):
        with pytest.raises(FormatError):
            load(manifest(), damaged, FEATURES)


def test_a_model_of_another_width_does_not_score() -> None:
    ranker = load(manifest(), train(width=WIDTH - 1).model_to_string().encode(), FEATURES)
    with pytest.raises(FormatError):
        ranker.predict(rows())


def test_the_manifest_survives_json() -> None:
    described = msgspec.json.decode(manifest(), type=Manifest)
    assert msgspec.json.decode(msgspec.json.encode(described), type=Manifest) == described


def test_the_fallback_ranker_counts_an_unknown_as_zero_and_needs_no_facet() -> None:
    assert FallbackRanker(FEATURES).predict(np.full((1, WIDTH), np.nan, np.float32)).tolist() == [0.0]
    features = FeatureSet(facets=())
    assert FallbackRanker(features).predict(np.zeros((2, len(features.all)), np.float32)).tolist() == [0.0, 0.0]


def test_the_fallback_ranker_prefers_popular_liked_and_young_pings() -> None:
    matrix = np.zeros((5, WIDTH), np.float32)
    names = ("ping_points_7d", "user_creator_affinity", "user_topics_affinity_mean", "ping_age_hours")
    matrix[range(1, 5), [FEATURES.names.index(name) for name in names]] = 1
    none, points, creator, topic, age = FallbackRanker(FEATURES).predict(matrix).tolist()
    assert points > creator == topic > none > age


def test_where_artifacts_lie() -> None:
    assert model_key("m1", "model.txt") == "models/m1/model.txt"
    assert snapshot_key(17) == "snapshots/17/snapshot.bin"
    assert pointer_key("abc", "model") == "pointers/abc/model.json"
