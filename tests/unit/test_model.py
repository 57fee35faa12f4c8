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


def rows(n: int = 200) -> Float32:
    rng = np.random.default_rng(7)
    values = rng.normal(size=(n, WIDTH)).astype(np.float32)
    return np.where(rng.random(values.shape) < 0.2, np.float32(np.nan), values)


@pytest.fixture(scope="module")
def text(booster: lightgbm.Booster) -> bytes:
    return booster.model_to_string().encode()


@pytest.mark.parametrize("given", [rows(), np.asfortranarray(rows())], ids=["by row", "by column"])
def test_scores_are_those_of_the_lightgbm_package(booster: lightgbm.Booster, text: bytes, given: Float32) -> None:
    np.testing.assert_array_equal(
        load(manifest(), text, FEATURES).predict(given), booster.predict(rows(), num_threads=1)
    )


def test_no_rows_have_no_scores(text: bytes) -> None:
    assert load(manifest(), text, FEATURES).predict(np.empty((0, WIDTH), np.float32)).shape == (0,)


def test_the_ranker_has_the_values_of_its_manifest(text: bytes) -> None:
    ranker = load(manifest(learned_realtime=["just_followed"]), text, FEATURES)
    assert (ranker.model_id, ranker.score_std) == ("m1", 0.5)
    assert ranker.learned_realtime == {"just_followed"}


@pytest.mark.parametrize(
    ("described", "said"),
    [
        (manifest(digest="0" * 16), "feature digest"),
        *((damaged, "manifest") for damaged in (b"", b"{", b"{}", b'{"model_id": 1}')),
    ],
)
def test_a_damaged_manifest_or_another_digest_is_rejected(described: bytes, said: str, text: bytes) -> None:
    with pytest.raises(FormatError, match=said):
        load(described, text, FEATURES)


@pytest.mark.parametrize("damaged", [b"", b"not a model"])
def test_a_damaged_model_is_rejected(damaged: bytes) -> None:
    with pytest.raises(FormatError):
        load(manifest(), damaged, FEATURES)


def test_every_cut_of_a_model_is_rejected(text: bytes) -> None:
    end = text.index(b"end of parameters")
    for length in range(0, end, len(text) // 40):
        with pytest.raises(FormatError):
            load(manifest(), text[:length], FEATURES)


def test_a_model_of_another_width_does_not_score() -> None:
    ranker = load(manifest(), train(width=WIDTH - 1).model_to_string().encode(), FEATURES)
    with pytest.raises(FormatError):
        ranker.predict(rows())


def test_the_manifest_survives_json() -> None:
    described = msgspec.json.decode(manifest(), type=Manifest)
    assert msgspec.json.decode(msgspec.json.encode(described), type=Manifest) == described


def test_the_fallback_ranker_counts_an_unknown_value_as_zero() -> None:
    unknown = np.full((1, WIDTH), np.nan, np.float32)
    assert FallbackRanker(FEATURES).predict(unknown).tolist() == [0.0]


def test_the_fallback_ranker_prefers_popular_liked_and_young_pings() -> None:
    matrix = np.zeros((5, WIDTH), np.float32)
    names = FEATURES.names
    matrix[1, names.index("ping_points_7d")] = 1
    matrix[2, names.index("user_creator_affinity")] = 1
    matrix[3, names.index("user_topics_affinity_mean")] = 1
    matrix[4, names.index("ping_age_hours")] = 1
    none, points, creator, topic, age = FallbackRanker(FEATURES).predict(matrix).tolist()
    assert points > creator == topic > none > age


def test_the_fallback_ranker_needs_no_facet() -> None:
    features = FeatureSet(facets=())
    assert FallbackRanker(features).predict(np.zeros((2, len(features.all)), np.float32)).tolist() == [0.0, 0.0]


def test_keys_of_artifacts() -> None:
    assert model_key("m1", "model.txt") == "models/m1/model.txt"
    assert snapshot_key(17) == "snapshots/17/snapshot.bin"
    assert pointer_key("abc", "model") == "pointers/abc/model.json"
