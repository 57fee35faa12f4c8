"""The ranker: its manifest, its loading, its scores.

The feed scores with LightGBM's shared library through ctypes: importing the `lightgbm` package costs up to two seconds
and brings scipy, its library alone loads in 40 ms. Where no model is live, `FallbackRanker` serves (docs/flow.md).
"""

import ctypes
import importlib.util
import re
from pathlib import Path
from typing import Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from pingfeed.core.errors import FormatError, NotFound
from pingfeed.core.features import FeatureSet, Float32
from pingfeed.core.integrity import UNREADABLE, Sealed, read_manifest, verify

Float64 = NDArray[np.float64]


class Manifest(Sealed, frozen=True, kw_only=True):
    """What lies beside `model.txt`; `metrics` are of held-out time."""

    model_id: str
    digest: str
    features: list[str]
    created_ms: int
    cutoff_tick: int
    trained_requests: int
    held_out_requests: int
    metrics: dict[str, float]
    params: dict[str, bool | int | float | str]
    score_std: float
    """Mean within-request standard deviation of the scores on held-out time: the unit of every boost."""
    learned_realtime: list[str]
    """Real-time features that the trees split on: these get no second boost."""
    live: bool
    """Whether the gate let it go live when it was trained."""
    gate: str
    """The gate's verdict in a sentence."""


class Ranker(Protocol):
    """Scores rows of one feature set; higher is better, and only the order within a request means anything."""

    model_id: str | None
    score_std: float
    learned_realtime: frozenset[str]

    def predict(self, rows: Float32) -> Float64:
        """Scores (n,) of rows (n, F)."""


class FallbackRanker:
    """Serves until a model passes the gate: popularity, plus what is known of the user's affinities.

    `ping_points_7d + 0.5 * user_creator_affinity + 0.5 * user_topics_affinity_mean - 0.002 * ping_age_hours`
    (the first facet's mean where topics are not configured), an unknown counting as 0.
    """

    model_id: str | None = None
    learned_realtime: frozenset[str] = frozenset()
    score_std = 0.1

    def __init__(self, features: FeatureSet) -> None:
        names = features.names
        weights = {"ping_points_7d": 1.0, "user_creator_affinity": 0.5, "ping_age_hours": -0.002}
        if features.facets:
            weights[f"user_{features.facets[0]}_affinity_mean"] = 0.5
        self._columns = [names.index(name) for name in weights]
        self._weights = np.array(list(weights.values()))

    def predict(self, rows: Float32) -> Float64:
        """Scores (n,) of rows (n, F)."""
        scores: Float64 = np.nan_to_num(rows[:, self._columns].astype(np.float64)) @ self._weights
        return scores


_FLOAT32: Final = 0
_ROW_MAJOR: Final = 1
_NORMAL: Final = 0


class _Library:
    """The few calls of LightGBM's C API that scoring needs; each returns 0 or sets `LGBM_GetLastError`."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec("lightgbm")
        if spec is None or not spec.submodule_search_locations:
            raise NotFound("LightGBM is not installed; install pingfeed[feed]")
        # .so on Linux, .dylib on macOS
        found = sorted(Path(spec.submodule_search_locations[0], "lib").glob("lib_lightgbm.*"))
        if not found:
            raise NotFound("the installed LightGBM has no shared library")
        self._dll = ctypes.CDLL(str(found[0]))
        self._dll.LGBM_GetLastError.restype = ctypes.c_char_p

    def call(self, name: str, *arguments: object) -> None:
        if getattr(self._dll, name)(*arguments):
            raise FormatError(f"LightGBM refused the model: {self._dll.LGBM_GetLastError().decode(errors='replace')}")


class TreeRanker:
    """A trained LightGBM model. Scores on the calling thread (OpenMP's default stalls a busy server)."""

    def __init__(self, manifest: Manifest, model_text: bytes) -> None:
        self.manifest = manifest
        self.model_id: str | None = manifest.model_id
        self.score_std = manifest.score_std
        self.learned_realtime = frozenset(manifest.learned_realtime)
        self._library = _Library()
        self._handle = ctypes.c_void_p()
        iterations = ctypes.c_int()
        text = ctypes.c_char_p(model_text)
        self._library.call(
            "LGBM_BoosterLoadModelFromString", text, ctypes.byref(iterations), ctypes.byref(self._handle)
        )

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.call("LGBM_BoosterFree", self._handle)

    def predict(self, rows: Float32) -> Float64:
        """Scores (n,) of rows (n, F)."""
        rows = np.ascontiguousarray(rows, np.float32)
        scores = np.empty(len(rows), np.float64)
        if not len(rows):
            return scores
        written = ctypes.c_int64()
        self._library.call(
            "LGBM_BoosterPredictForMat",
            self._handle,
            ctypes.c_void_p(rows.ctypes.data),
            ctypes.c_int(_FLOAT32),
            ctypes.c_int32(rows.shape[0]),
            ctypes.c_int32(rows.shape[1]),
            ctypes.c_int(_ROW_MAJOR),
            ctypes.c_int(_NORMAL),
            ctypes.c_int(0),
            ctypes.c_int(-1),
            ctypes.c_char_p(b"num_threads=1"),
            ctypes.byref(written),
            ctypes.c_void_p(scores.ctypes.data),
        )
        return scores


def load(manifest: bytes, model_text: bytes, features: FeatureSet) -> TreeRanker:
    """The ranker of a stored model; FormatError if it was trained on another feature digest or is damaged."""
    described = read_manifest(Manifest, manifest, "the model")
    if described.digest != features.digest:
        raise FormatError(f"model {described.model_id} is of feature digest {described.digest}, not {features.digest}")
    verify(described, model_text, f"model {described.model_id}")
    _check_whole(described.model_id, model_text)
    return TreeRanker(described, model_text)


_TREE_SIZES: Final = re.compile(rb"^tree_sizes=([0-9 ]*)\n\n", re.MULTILINE)


def _check_whole(model_id: str, text: bytes) -> None:
    """FormatError unless every tree is where the header says: LightGBM ends the process over some that are cut off."""
    header = _TREE_SIZES.search(text)
    at = header.end() if header else len(text)
    for tree, size in enumerate(header[1].split() if header else ()):
        if not text.startswith(b"Tree=%d\n" % tree, at):
            break
        at += int(size)
    if not text.startswith(b"end of trees\n", at) or b"\nend of parameters\n" not in text[at:]:
        raise FormatError(f"model {model_id} is cut short or damaged")


class Pointer(msgspec.Struct, frozen=True):
    """What `pointers/<digest>/{model,snapshot}.json` say: the artifact that is live, and the one it replaced.

    The previous one serves where the current one is damaged.
    """

    current: str
    previous: str | None = None

    @classmethod
    def parse(cls, data: bytes, what: str) -> "Pointer":
        """The pointer to the live `what`; FormatError."""
        try:
            return msgspec.json.decode(data, type=cls)
        except UNREADABLE as error:
            raise FormatError(f"the {what} pointer is damaged: {error}") from error

    @property
    def names(self) -> list[str]:
        """What may serve, the current one first."""
        return [name for name in (self.current, self.previous) if name]


def model_key(model_id: str, name: str) -> str:
    """Where a model's file lies among the artifacts; `name` is `model.txt` or `manifest.json`."""
    return f"models/{model_id}/{name}"


def snapshot_key(folder: int | str, name: str = "snapshot.bin") -> str:
    """Where a snapshot's file lies among the artifacts; `name` is `snapshot.bin`, `manifest.json` or `facets.json`.

    `folder` is its tick; `<tick>-<digest>` where another feature digest published that tick before.
    """
    return f"snapshots/{folder}/{name}"


def pointer_key(digest: str, what: str) -> str:
    """Where the pointer to the live `model` or `snapshot` of a feature digest lies."""
    return f"pointers/{digest}/{what}.json"
