"""The people of a world: users with preferences, creators with styles, and the countries where they live.

Preferences have two parts. Interest in topics is observable: every ping names its topics. A preference for style is
latent: no event names it, so only the behaviour of similar users can reveal it.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pingfeed.core.clock import HOUR_MS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SUBJECTS: Final = {
    "animals": ("Cats of the old harbour", "Training a stubborn beagle", "Urban foxes", "A parrot that whistles"),
    "art": ("Watercolour skies", "Drawing hands", "A mural in three nights", "Museum corners no one visits"),
    "books": ("Short novels worth a weekend", "Reading the classics", "Second-hand finds", "A chapter a day"),
    "cars": ("Rebuilding a 1987 estate", "City driving, electric", "Rust repair", "Weekend rally notes"),
    "comedy": ("Open mic night", "Flatmate impressions", "Office small talk", "A joke told badly"),
    "cooking": ("Sourdough at home", "Weeknight curry", "Knife skills", "Leftover rice"),
    "dance": ("Salsa basics", "A studio warm-up", "Learning the shuffle", "Two left feet"),
    "diy": ("A shelf without screws", "Fixing a dripping tap", "Pallet furniture", "Painting a small room"),
    "education": ("Fractions that make sense", "Learning Portuguese", "Study plans", "Memory palaces"),
    "fashion": ("A capsule wardrobe", "Mending denim", "Thrift shop coats", "One jacket, many outfits"),
    "film": ("Films under ninety minutes", "Long takes", "Practical effects", "Endings that work"),
    "fitness": ("Mobility before breakfast", "Couch to five kilometres", "Kettlebells at home", "Rest days"),
    "football": ("Sunday league", "The offside trap", "Penalty nerves", "Transfer rumours"),
    "gaming": ("Speedrunning a classic", "Cosy farming games", "Building a castle", "Couch co-op"),
    "gardening": ("Tomatoes on a balcony", "Composting", "Pruning roses", "A herb shelf"),
    "music": ("Four chords", "Recording in a wardrobe", "Learning the cello", "Street drummers"),
    "news": ("The week in transit", "Council meetings", "A strike explained", "Local elections"),
    "parenting": ("Bedtime", "Lunch boxes", "First day of school", "Rainy afternoons"),
    "science": ("Why the sky is blue", "Kitchen chemistry", "Tides", "A telescope on a budget"),
    "travel": ("Night trains", "Lisbon on foot", "Packing light", "A detour through the hills"),
}
"""Topics, and what their pings' titles on the demo page are about."""
TOPICS: Final = tuple(SUBJECTS)
STYLES: Final = 6
"""Dimensions of the latent style."""
DEVICES: Final = ("android", "ios", "web")


@dataclass(frozen=True)
class Place:
    """A country: its share of all people, its offset from UTC, and the share of its people for each language."""

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


def activity_at(at_ms: Ints) -> Floats:
    """Relative activity of each place at each time, mean 1 over a day: (len(at_ms), len(PLACES))."""
    offsets = np.array([place.offset_hours * HOUR_MS for place in PLACES])
    hour = (at_ms[:, None] + offsets).astype(np.int64) // HOUR_MS % 24
    return np.asarray((_LOCAL_HOURS / _LOCAL_HOURS.mean())[hour])


@dataclass(frozen=True)
class Users:
    """n users, one row each."""

    interest: Floats  # (n, topics) how much each topic appeals, mean 0, variance 1
    style: Floats  # (n, STYLES) latent preference, variance 1
    place: Ints  # (n,) index into PLACES
    language: Ints  # (n,) index into LANGUAGES
    device: Ints  # (n,) index into DEVICES
    feeds_per_day: Floats  # (n,)
    continuation: Floats  # (n,) probability of going on to the next slot
    engagement: Floats  # (n,) how readily the user likes, comments and shares; mean 1

    def __len__(self) -> int:
        return len(self.place)


@dataclass(frozen=True)
class Creators:
    """n creators, one row each."""

    topics: Floats  # (n, topics) share of the creator's pings for each topic
    style: Floats  # (n, STYLES)
    quality: Floats  # (n,) mean 0, variance 1
    place: Ints
    language: Ints
    output: Floats  # (n,) share of all pings, sums to 1

    def __len__(self) -> int:
        return len(self.place)


def draw_users(rng: np.random.Generator, n: int, feeds_per_day: float) -> Users:
    """n users who request `feeds_per_day` feeds a day on average; a few request many times that."""
    place, language = _draw_places(rng, n)
    activity = rng.lognormal(0, 0.7, n)
    return Users(
        interest=rng.standard_normal((n, len(TOPICS))),
        style=rng.standard_normal((n, STYLES)),
        place=place,
        language=language,
        device=rng.choice(len(DEVICES), n, p=[0.5, 0.35, 0.15]),
        feeds_per_day=activity * feeds_per_day / activity.mean(),
        continuation=rng.beta(18, 1.1, n),
        engagement=rng.gamma(4, 1 / 4, n),
    )


def draw_creators(rng: np.random.Generator, n: int) -> Creators:
    """n creators, each with a handful of topics; a few of them make most of the pings."""
    place, language = _draw_places(rng, n)
    output = rng.pareto(1.8, n) + 0.3
    topics = rng.dirichlet(np.full(len(TOPICS), 0.12), n) + 0.002
    return Creators(
        topics=topics / topics.sum(axis=1, keepdims=True),
        style=rng.standard_normal((n, STYLES)),
        quality=rng.standard_normal(n),
        place=place,
        language=language,
        output=output / output.sum(),
    )


def _draw_places(rng: np.random.Generator, n: int) -> tuple[Ints, Ints]:
    """A place and a language for each of n people, as indices into PLACES and LANGUAGES."""
    shares = np.array([place.share for place in PLACES])
    place = rng.choice(len(PLACES), n, p=shares / shares.sum())
    spoken = np.array([[p.languages.get(language, 0.0) for language in LANGUAGES] for p in PLACES])
    language = (rng.random(n)[:, None] > spoken.cumsum(axis=1)[place]).sum(axis=1)
    return place, np.minimum(language, len(LANGUAGES) - 1)
