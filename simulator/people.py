"""The people of a world: users with tastes, creators with styles.

A taste has two parts. Interest in topics is expressed: topics are on every ping. A liking for style is hidden: nothing
in the events names it, so only what similar people did can reveal it.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulator.places import draw_places

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TOPICS: Final = (
    "animals",
    "art",
    "books",
    "cars",
    "comedy",
    "cooking",
    "dance",
    "diy",
    "education",
    "fashion",
    "film",
    "fitness",
    "football",
    "gaming",
    "gardening",
    "music",
    "news",
    "parenting",
    "science",
    "travel",
)
STYLES: Final = 6
"""Dimensions of hidden style."""
DEVICES: Final = ("android", "ios", "web")


@dataclass(frozen=True)
class Users:
    """n users, one row each."""

    interest: Floats  # (n, topics) how much each topic appeals, mean 0, variance 1
    taste: Floats  # (n, STYLES) the hidden part, variance 1
    place: Ints  # (n,) into PLACES
    language: Ints  # (n,) into LANGUAGES
    device: Ints  # (n,) into DEVICES
    feeds_per_day: Floats  # (n,) activity
    patience: Floats  # (n,) probability of going on to the next slot
    warmth: Floats  # (n,) how readily the user likes, comments and shares; mean 1

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
    """n users who ask for `feeds_per_day` feeds a day on average; a few ask for many times that."""
    place, language = draw_places(rng, n)
    activity = rng.lognormal(0, 0.7, n)
    return Users(
        interest=rng.standard_normal((n, len(TOPICS))),
        taste=rng.standard_normal((n, STYLES)),
        place=place,
        language=language,
        device=rng.choice(len(DEVICES), n, p=[0.5, 0.35, 0.15]),
        feeds_per_day=activity * feeds_per_day / activity.mean(),
        patience=rng.beta(18, 1.1, n),
        warmth=rng.gamma(4, 1 / 4, n),
    )


def draw_creators(rng: np.random.Generator, n: int) -> Creators:
    """n creators, each with a handful of topics; a few of them make most of the pings."""
    place, language = draw_places(rng, n)
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
