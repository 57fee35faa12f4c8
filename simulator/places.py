"""Where people live: countries, their languages, and how busy each hour of their day is."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pingfeed.core.clock import HOUR_MS


@dataclass(frozen=True)
class Place:
    """A country, its share of the people, its offset from UTC, and the share of people for each language."""

    country: str
    share: float
    offset_hours: float
    languages: dict[str, float]


PLACES: Final = (
    Place("US", 0.36, -6, {"en": 0.86, "es": 0.14}),
    Place("BR", 0.18, -3, {"pt": 1.0}),
    Place("GB", 0.14, 0, {"en": 1.0}),
    Place("DE", 0.14, 1, {"de": 0.94, "en": 0.06}),
    Place("IN", 0.12, 5.5, {"hi": 0.55, "en": 0.45}),
    Place("MX", 0.06, -6, {"es": 1.0}),
)
LANGUAGES: Final = tuple(sorted({language for place in PLACES for language in place.languages}))

_LOCAL_HOURS: Final = np.array(
    [5, 3, 2, 1, 1, 2, 4, 7, 9, 8, 7, 8, 11, 10, 8, 8, 9, 11, 13, 15, 17, 16, 13, 9], dtype=np.float64
)
"""Relative activity at each hour of the local day."""


def rhythm(at_ms: NDArray[np.int64]) -> NDArray[np.float64]:
    """How busy each place is at each instant, mean 1 over a day: (len(at_ms), len(PLACES))."""
    offsets = np.array([place.offset_hours * HOUR_MS for place in PLACES])
    hour = (at_ms[:, None] + offsets).astype(np.int64) // HOUR_MS % 24
    return np.asarray((_LOCAL_HOURS / _LOCAL_HOURS.mean())[hour])


def draw_places(rng: np.random.Generator, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A place and a language for each of n people, as indices into PLACES and LANGUAGES."""
    shares = np.array([place.share for place in PLACES])
    place = rng.choice(len(PLACES), n, p=shares / shares.sum())
    spoken = np.array([[p.languages.get(language, 0.0) for language in LANGUAGES] for p in PLACES])
    language = (rng.random(n)[:, None] > spoken.cumsum(axis=1)[place]).sum(axis=1)
    return place, np.minimum(language, len(LANGUAGES) - 1)
