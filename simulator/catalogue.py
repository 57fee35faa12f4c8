"""The pings of a world as columns: the attributes that services receive, and the hidden ones that drive behaviour."""

from dataclasses import dataclass, fields
from functools import reduce
from typing import Any, Final

import numpy as np

from pingfeed.core.clock import DAY_MS, HOUR_MS
from simulator.people import STYLES, TOPICS, Creators, Floats, Ints, activity_at

FORMATS: Final = ("text", "photo", "video")
TAGS: Final = tuple(f"tag-{number:02d}" for number in range(40))
_DURATIONS_S: Final = (20.0, 8.0, 35.0)
"""Median duration by format: time to read, time to look, playing time."""
LIVE_EVERY_MS: Final = 60_000
"""After the history, one ping is created a minute. The services receive it if live traffic is running to post it."""
_LIVE_BLOCK: Final = 1440
_EVERGREEN_SHARE: Final = 0.12
_BEFORE_SHARE: Final = 0.4


@dataclass(frozen=True)
class Pings:
    """n pings in order of creation, one row each; a ping's row is its number."""

    creator: Ints  # (n,)
    topics: Floats  # (n, topics) equal weights on 1 to 3 topics, length 1 as a vector
    style: Floats  # (n, STYLES) latent, variance 1
    quality: Floats  # (n,) hidden, variance 1
    created_ms: Ints  # (n,)
    fade_ms: Floats  # (n,) hidden: how fast it loses its novelty
    evergreen: Floats  # (n,) hidden: 1 if it never loses its appeal
    format: Ints  # (n,) index into FORMATS
    duration_ms: Ints  # (n,)
    word_count: Ints  # (n,)
    tags: Ints  # (n, 2) indices into TAGS

    def __len__(self) -> int:
        return len(self.creator)

    def topics_of(self, ping: int) -> list[str]:
        """The names of one ping's topics."""
        return [TOPICS[t] for t in np.flatnonzero(self.topics[ping])]

    def rows(self, chosen: Any) -> "Pings":
        """The pings that an index, a mask or a slice selects."""
        return Pings(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    def followed_by(self, later: "Pings") -> "Pings":
        """These pings, then later ones."""
        names = [field.name for field in fields(self)]
        return Pings(**{name: np.concatenate([getattr(self, name), getattr(later, name)]) for name in names})


def _draw_pings(rng: np.random.Generator, creators: Creators, creator: Ints, created_ms: Ints) -> Pings:
    """One ping by each creator at each time."""
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
        # Better pings are a little longer, so this attribute carries signal for a ranker.
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
    """Two tags each: one hints at the strongest latent dimension, one is noise."""
    n = len(style)
    strongest = np.abs(style).argmax(axis=1)
    sign = (style[np.arange(n), strongest] > 0).astype(np.int64)
    hint = 2 * strongest + sign
    noise = rng.integers(2 * STYLES, len(TAGS), n)
    return np.stack([hint, noise], axis=1).astype(np.int64)


def draw_history(rng: np.random.Generator, creators: Creators, n: int, start_ms: int, until_ms: int) -> Pings:
    """n pings of the past: some from the two weeks before `start_ms`, the others up to `until_ms`."""
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
    return _draw_pings(rng, creators, creator[order], created[order])


def _draw_times(rng: np.random.Generator, place: Ints, begin_ms: int, end_ms: int) -> Ints:
    """A time from [begin, end) for each creator, weighted by the activity of the creator's place."""
    hours = np.arange(begin_ms, end_ms, HOUR_MS)
    busy = activity_at(hours).cumsum(axis=0)
    drawn = rng.random(len(place)) * busy[-1, place]
    hour = (drawn[:, None] >= busy[:, place].T).sum(axis=1)
    times = hours[hour] + rng.integers(0, HOUR_MS, len(place))
    return np.asarray(np.minimum(times, end_ms - 1))


def draw_live(seed: int, creators: Creators, until_ms: int, now_ms: int) -> Pings:
    """The pings after `until_ms` up to `now_ms`, one a minute; the same pings whenever they are drawn."""
    slots = max(0, (now_ms - until_ms) // LIVE_EVERY_MS)
    blocks = [_draw_live_block(seed, creators, until_ms, block) for block in range(slots // _LIVE_BLOCK + 1)]
    return reduce(Pings.followed_by, blocks).rows(slice(0, slots))


def _draw_live_block(seed: int, creators: Creators, until_ms: int, block: int) -> Pings:
    rng = np.random.default_rng([seed, 2, block])
    creator = rng.choice(len(creators), _LIVE_BLOCK, p=creators.output)
    number = np.arange(_LIVE_BLOCK, dtype=np.int64) + 1 + block * _LIVE_BLOCK
    return _draw_pings(rng, creators, creator, until_ms + number * LIVE_EVERY_MS)
