"""A world: users, pings, and the ground truth about who likes what. The seed determines every number.

(For one version of numpy on one kind of processor: elsewhere the last bits of exp, and so the draws, may differ.)

The ground truth is `true_affinity`: how much a ping appeals to a user at a time, from 0 to 1, without position bias and
without noise. Behaviour (`behave.py`) follows it, and feeds are judged by it (`measure.py`).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from pingfeed.core.clock import DAY_MS
from pingfeed.core.errors import FormatError, InvalidInput, NotFound
from pingfeed.core.integrity import UNREADABLE
from simulator.catalogue import FORMATS, LIVE_EVERY_MS, TAGS, Pings, draw_history, draw_live
from simulator.people import LANGUAGES, PLACES, Creators, Floats, Ints, Users, draw_creators, draw_users

FILE: Final = "world.json"
TICK_MS: Final = 15 * 60_000
SLOTS: Final = 10
"""Pings in one feed of the history."""

# Weights of the parts of an appeal, on the logit scale. Preference outweighs quality: otherwise one list for every user
# would be the best feed.
_BASE: Final = -0.4
_QUALITY: Final = 0.55
_INTEREST: Final = 0.85
_STYLE: Final = 1.0
_OTHER_LANGUAGE: Final = -1.1
_OTHER_COUNTRY: Final = -0.25
_FRESH: Final = 1.1
_STALE: Final = -0.35
_EVERGREEN: Final = 0.15


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of a world; `world.json` holds them."""

    seed: int = 7
    users: int = 1000
    pings: int = 2000
    creators: int = 0
    days: int = 14
    until_ms: int
    tick_ms: int = TICK_MS
    feeds_per_day: float = 5.0

    def __post_init__(self) -> None:
        for name, least in (("seed", 0), ("users", 1), ("pings", 30), ("days", 1), ("tick_ms", 1)):
            if getattr(self, name) < least:
                raise InvalidInput(f"{name} of a world must be at least {least}", field=name)
        if self.until_ms % self.tick_ms:
            raise InvalidInput("the history must end at the start of a tick", field="until_ms")

    @property
    def start_ms(self) -> int:
        """The earliest time of a feed request; a tick begins there."""
        return self.until_ms - self.days * DAY_MS // self.tick_ms * self.tick_ms


@dataclass(frozen=True)
class World:
    """The people, and the pings up to some time. A ping's number is its row; `at` adds the pings of later times."""

    spec: Spec
    users: Users
    creators: Creators
    pings: Pings

    @classmethod
    def build(cls, spec: Spec) -> "World":
        """The world at the end of its history."""
        rng = np.random.default_rng([spec.seed, 1])
        users = draw_users(rng, spec.users, spec.feeds_per_day)
        creators = draw_creators(rng, spec.creators or max(10, spec.pings // 10))
        return cls(spec, users, creators, draw_history(rng, creators, spec.pings, spec.start_ms, spec.until_ms))

    def at(self, now_ms: int) -> "World":
        """The same world with every ping created up to `now_ms`."""
        past = self.pings.rows(slice(0, self.spec.pings))
        live = draw_live(self.spec.seed, self.creators, self.spec.until_ms, now_ms)
        return replace(self, pings=past.followed_by(live))

    @property
    def next_ping_ms(self) -> int:
        """When the next ping is created, for a world that `at` returned."""
        return self.spec.until_ms + (len(self.pings) - self.spec.pings + 1) * LIVE_EVERY_MS

    def true_affinity(self, user: Ints | int, ping: Ints | int, at_ms: Ints | int) -> Floats:
        """The appeal of pings to users at times, 0 to 1; the three broadcast against each other."""
        return sigmoid(self.appeal(np.asarray(user), np.asarray(ping), np.asarray(at_ms)))

    def appeal(self, user: Ints, ping: Ints, at_ms: Ints) -> Floats:
        """The logit of `true_affinity`."""
        users, pings = self.users, self.pings
        creator = pings.creator[ping]
        interest = _dot(users.interest[user], pings.topics[ping])
        style = _dot(users.style[user], pings.style[ping]) / np.sqrt(users.style.shape[1])
        total = _BASE + _QUALITY * pings.quality[ping] + _INTEREST * interest + _STYLE * style
        total = total + _OTHER_LANGUAGE * (users.language[user] != self.creators.language[creator])
        total = total + _OTHER_COUNTRY * (users.place[user] != self.creators.place[creator])
        return np.asarray(total + self._novelty(ping, at_ms))

    def _novelty(self, ping: Ints, at_ms: Ints) -> Floats:
        """The effect of age: evergreen pings keep their appeal, the others lose it."""
        age = np.maximum(0, at_ms - self.pings.created_ms[ping])
        faded = _STALE + _FRESH * np.exp(-age / self.pings.fade_ms[ping])
        return np.where(self.pings.evergreen[ping] > 0, _EVERGREEN, faded)

    def country(self, user: int) -> str:
        """A user's country."""
        return PLACES[self.users.place[user]].country

    def language(self, user: int) -> str:
        """A user's language."""
        return str(LANGUAGES[self.users.language[user]])

    def ping_event(self, ping: int) -> dict[str, Any]:
        """The `ping_created` event of a ping, without an id or a time."""
        pings, creator = self.pings, int(self.pings.creator[ping])
        return {
            "event_type": "ping_created",
            "ping_id": ping_id(ping),
            "creator_id": creator_id(creator),
            "topics": pings.topics_of(ping),
            "country": PLACES[self.creators.place[creator]].country,
            "language": LANGUAGES[self.creators.language[creator]],
            "duration_ms": int(pings.duration_ms[ping]),
            "attributes": {"word_count": float(pings.word_count[ping])},
            "facets": {
                "format": [FORMATS[pings.format[ping]]],
                "tags": [TAGS[tag] for tag in dict.fromkeys(pings.tags[ping].tolist())],
            },
        }


def sigmoid(x: Floats) -> Floats:
    """The logistic function."""
    return np.asarray(1 / (1 + np.exp(-x)))


def _dot(left: Floats, right: Floats) -> Floats:
    """Dot products along the last axis, the others broadcast. The order of summation does not depend on the BLAS."""
    return np.asarray(np.einsum("...k,...k->...", left, right))


def user_id(number: int) -> str:
    """The id of user `number`."""
    return f"user-{number:04d}"


def creator_id(number: int) -> str:
    """The id of creator `number`."""
    return f"creator-{number:03d}"


def ping_id(number: int) -> str:
    """The id of ping `number`."""
    return f"ping-{number:05d}"


def ping_number(identifier: str) -> int | None:
    """The number in a ping's id; None for a ping from outside the simulator."""
    kind, _, digits = identifier.partition("-")
    return int(digits) if kind == "ping" and digits.isascii() and digits.isdigit() else None


def encode(spec: Spec) -> bytes:
    """The bytes of `world.json`."""
    return msgspec.json.format(msgspec.json.encode(spec)) + b"\n"


def decode(data: bytes, name: str) -> Spec:
    """The parameters in a file called `name`; FormatError if it holds none."""
    try:
        return msgspec.json.decode(data, type=Spec)
    except UNREADABLE as error:
        raise FormatError(f"{name} does not describe a world: {error}") from error


def load(home: Path) -> Spec:
    """The parameters of the world in a folder; NotFound if there is none."""
    path = home / FILE
    if not path.exists():
        raise NotFound(f"there is no {path}; create a world with pingfeed simulate history or pingfeed demo")
    return decode(path.read_bytes(), str(path))
