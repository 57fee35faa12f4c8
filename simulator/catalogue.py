"""The pings of a world, as columns: what a service is told of them, and what only the world knows."""

from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np

from pingfeed.core.clock import DAY_MS, HOUR_MS
from simulator.people import STYLES, TOPICS, Creators, Floats, Ints, rhythm

FORMATS: Final = ("text", "photo", "video")
TAGS: Final = tuple(f"tag-{number:02d}" for number in range(40))
_DURATIONS_S: Final = (20.0, 8.0, 35.0)
"""Median length by format: reading time, looking time, running time."""
LIVE_EVERY_MS: Final = 60_000
"""After its history a world makes a ping a minute; the services learn of it if the live player was there to post it."""
_LIVE_BLOCK: Final = 1440
_EVERGREEN_SHARE: Final = 0.12
_BEFORE_SHARE: Final = 0.4


@dataclass(frozen=True)
class Pings:
    """n pings in order of creation, one row each; a ping's row is its number."""

    creator: Ints  # (n,)
    topics: Floats  # (n, topics) equal weights on 1 to 3 topics, length 1 as a vector
    style: Floats  # (n, STYLES) hidden, variance 1
    quality: Floats  # (n,) hidden, variance 1
    created_ms: Ints  # (n,)
    fade_ms: Floats  # (n,) hidden: how fast the news wears off
    evergreen: Floats  # (n,) hidden: 1 if it does not wear off
    format: Ints  # (n,) into FORMATS
    duration_ms: Ints  # (n,)
    word_count: Ints  # (n,)
    tags: Ints  # (n, 2) into TAGS; a repeated tag counts once

    def __len__(self) -> int:
        return len(self.creator)

    def topics_of(self, ping: int) -> list[str]:
        """Names of one ping's topics."""
        return [TOPICS[t] for t in np.flatnonzero(self.topics[ping])]

    def rows(self, chosen: Any) -> "Pings":
        """The pings that an index, a mask or a slice chooses."""
        return Pings(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    def followed_by(self, later: "Pings") -> "Pings":
        """These pings, then later ones."""
        names = [field.name for field in fields(self)]
        return Pings(**{name: np.concatenate([getattr(self, name), getattr(later, name)]) for name in names})


def draw_pings(rng: np.random.Generator, creators: Creators, creator: Ints, created_ms: Ints) -> Pings:
    """What each creator made at each time."""
    n = len(creator)
    kind = rng.choice(len(FORMATS), n, p=[0.3, 0.25, 0.45])
    quality = 0.6 * creators.quality[creator] + 0.8 * rng.standard_normal(n)
    style = 0.85 * creators.style[creator] + 0.53 * rng.standard_normal((n, STYLES))
    length = np.array(_DURATIONS_S)[kind] * rng.lognormal(0, 0.5, n)
    return Pings(
        creator=creator,
        topics=_draw_topics(rng, creators.topics[creator]),
        style=style,
        quality=quality,
        created_ms=created_ms,
        fade_ms=HOUR_MS * rng.lognormal(np.log(30), 0.6, n),
        evergreen=(rng.random(n) < _EVERGREEN_SHARE).astype(np.float64),
        format=kind,
        duration_ms=(1000 * length).astype(np.int64),
        # Better pings are a little longer: a named number that is worth something to a ranker.
        word_count=np.maximum(1, rng.lognormal(3.2 + 0.25 * quality, 0.6, n)).astype(np.int64),
        tags=_draw_tags(rng, style),
    )


def _draw_topics(rng: np.random.Generator, mix: Floats) -> Floats:
    """1 to 3 topics from each row's mix, without repeats, as vectors of length 1."""
    n = len(mix)
    race = rng.standard_exponential(mix.shape) / mix
    order = race.argsort(axis=1)
    count = rng.choice([1, 2, 3], n, p=[0.5, 0.35, 0.15])
    chosen = np.zeros(mix.shape)
    for place in range(3):
        rows = np.flatnonzero(count > place)
        chosen[rows, order[rows, place]] = 1
    return np.asarray(chosen / np.sqrt(count)[:, None])


def _draw_tags(rng: np.random.Generator, style: Floats) -> Ints:
    """Two tags each: one hints at the strongest hidden dimension, one is noise."""
    n = len(style)
    strongest = np.abs(style).argmax(axis=1)
    sign = (style[np.arange(n), strongest] > 0).astype(np.int64)
    hint = 2 * strongest + sign
    noise = rng.integers(2 * STYLES, len(TAGS), n)
    return np.stack([hint, noise], axis=1).astype(np.int64)


def draw_history(rng: np.random.Generator, creators: Creators, n: int, start_ms: int, until_ms: int) -> Pings:
    """n pings of the past: a share from the fortnight before `start_ms`, the others up to `until_ms`."""
    before = int(n * _BEFORE_SHARE)
    creator = rng.choice(len(creators), n, p=creators.output)
    place = creators.place[creator]
    created = np.concatenate(
        [
            _draw_times(rng, place[:before], start_ms - 14 * DAY_MS, start_ms),
            _draw_times(rng, place[before:], start_ms, until_ms),
        ]
    )
    order = created.argsort(kind="stable")
    return draw_pings(rng, creators, creator[order], created[order])


def _draw_times(rng: np.random.Generator, place: Ints, begin_ms: int, end_ms: int) -> Ints:
    """A time from [begin, end) for each creator, by the rhythm of the creator's place."""
    hours = np.arange(begin_ms, end_ms, HOUR_MS)
    busy = rhythm(hours).cumsum(axis=0)
    drawn = rng.random(len(place)) * busy[-1, place]
    hour = (drawn[:, None] >= busy[:, place].T).sum(axis=1)
    times = hours[hour] + rng.integers(0, HOUR_MS, len(place))
    return np.asarray(np.minimum(times, end_ms - 1))


def draw_live(seed: int, creators: Creators, until_ms: int, now_ms: int) -> Pings:
    """The pings after `until_ms` up to `now_ms`, one a minute, the same whenever and however often they are drawn."""
    slots = max(0, (now_ms - until_ms) // LIVE_EVERY_MS)
    pings = None
    for block in range(slots // _LIVE_BLOCK + 1):
        rng = np.random.default_rng([seed, 2, block])
        creator = rng.choice(len(creators), _LIVE_BLOCK, p=creators.output)
        created = until_ms + (np.arange(_LIVE_BLOCK, dtype=np.int64) + 1 + block * _LIVE_BLOCK) * LIVE_EVERY_MS
        drawn = draw_pings(rng, creators, creator, created)
        pings = drawn if pings is None else pings.followed_by(drawn)
    assert pings is not None, "there is always a first block"
    return pings.rows(slice(0, slots))
