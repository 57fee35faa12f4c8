"""A world: people, pings, and the truth about who likes what. A seed makes it, bit for bit.

(With one version of numpy on one kind of processor: across those, the last bits of exp and the draws may differ.)

The truth is `true_affinity`: how much a ping appeals to a user at a time, from 0 to 1, without the effect of its place
in a list and without the moment's chance. Behaviour (`behave.py`) follows it; a feed is judged by it (`measure.py`).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from pingfeed.core.clock import DAY_MS
from pingfeed.core.errors import FormatError, InvalidInput, NotFound
from simulator.catalogue import FORMATS, LIVE_EVERY_MS, TAGS, Pings, draw_history, draw_live
from simulator.people import Creators, Floats, Ints, Users, draw_creators, draw_users
from simulator.places import LANGUAGES, PLACES

FILE: Final = "world.json"
TICK_MS: Final = 15 * 60_000
SLOTS: Final = 10
"""Pings in one feed of the history."""

# How the parts of an appeal weigh, in units of its logit. Preference outweighs quality: else showing everybody the same
# would be the best feed.
_BASE: Final = -0.4
_QUALITY: Final = 0.55
_INTEREST: Final = 0.85
_TASTE: Final = 1.0
_FOREIGN: Final = -1.1
_ABROAD: Final = -0.25
_FRESH: Final = 1.1
_STALE: Final = -0.35
_EVERGREEN: Final = 0.15


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """All that a world is made from; `world.json` holds it."""

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
                raise InvalidInput(f"a world needs {name} of at least {least}", field=name)
        if self.until_ms % self.tick_ms:
            raise InvalidInput("the history must end where a tick begins", field="until_ms")

    @property
    def start_ms(self) -> int:
        """When the first feed is asked for, at the earliest; a tick begins there."""
        return self.until_ms - self.days * DAY_MS // self.tick_ms * self.tick_ms


@dataclass(frozen=True)
class World:
    """The people, and the pings up to some time. A ping's number is its row; `at` adds those of later times."""

    spec: Spec
    users: Users
    creators: Creators
    pings: Pings

    @classmethod
    def build(cls, spec: Spec) -> "World":
        """The world as it is when its history ends."""
        rng = np.random.default_rng([spec.seed, 1])
        users = draw_users(rng, spec.users, spec.feeds_per_day)
        creators = draw_creators(rng, spec.creators or max(10, spec.pings // 10))
        return cls(spec, users, creators, draw_history(rng, creators, spec.pings, spec.start_ms, spec.until_ms))

    def at(self, now_ms: int) -> "World":
        """The same world with every ping that is made up to `now_ms`."""
        past = self.pings.rows(slice(0, self.spec.pings))
        live = draw_live(self.spec.seed, self.creators, self.spec.until_ms, now_ms)
        return replace(self, pings=past.followed_by(live))

    @property
    def next_ping_ms(self) -> int:
        """When the next ping after those of this world is made, for a world that `at` gave."""
        return self.spec.until_ms + (len(self.pings) - self.spec.pings + 1) * LIVE_EVERY_MS

    def true_affinity(self, user: Ints | int, ping: Ints | int, at_ms: Ints | int) -> Floats:
        """The appeal of pings to users at times, 0 to 1; the three broadcast against each other."""
        return sigmoid(self.appeal(np.asarray(user), np.asarray(ping), np.asarray(at_ms)))

    def appeal(self, user: Ints, ping: Ints, at_ms: Ints) -> Floats:
        """The logit of `true_affinity`."""
        users, pings = self.users, self.pings
        creator = pings.creator[ping]
        interest = _dot(users.interest[user], pings.topics[ping])
        taste = _dot(users.taste[user], pings.style[ping]) / np.sqrt(users.taste.shape[1])
        total = _BASE + _QUALITY * pings.quality[ping] + _INTEREST * interest + _TASTE * taste
        total = total + _FOREIGN * (users.language[user] != self.creators.language[creator])
        total = total + _ABROAD * (users.place[user] != self.creators.place[creator])
        return np.asarray(total + self._novelty(ping, at_ms))

    def _novelty(self, ping: Ints, at_ms: Ints) -> Floats:
        """What a ping's age does to its appeal: news wears off, the evergreen does not."""
        age = np.maximum(0, at_ms - self.pings.created_ms[ping])
        worn = _STALE + _FRESH * np.exp(-age / self.pings.fade_ms[ping])
        return np.where(self.pings.evergreen[ping] > 0, _EVERGREEN, worn)

    def country(self, user: int) -> str:
        """A user's country."""
        return PLACES[self.users.place[user]].country

    def language(self, user: int) -> str:
        """A user's language."""
        return str(LANGUAGES[self.users.language[user]])

    def ping_event(self, ping: int) -> dict[str, Any]:
        """What a service is told of a ping: the fields of its `ping_created`, without an id or a time."""
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


def _dot(left: NDArray[np.float64], right: NDArray[np.float64]) -> Floats:
    """Products along the last axis, the others broadcast; summed in one order, whatever the BLAS."""
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
    """The number in a ping's id; None for a ping that no world made."""
    kind, _, digits = identifier.partition("-")
    return int(digits) if kind == "ping" and digits.isascii() and digits.isdigit() else None


def encoded(spec: Spec) -> bytes:
    """The parameters as the file that lies beside a world's history."""
    return msgspec.json.format(msgspec.json.encode(spec)) + b"\n"


def decoded(data: bytes | None, name: str) -> Spec:
    """The parameters in a file; NotFound if there is none (`data` is None)."""
    if data is None:
        raise NotFound(f"there is no {name}; make a world with pingfeed simulate history or demo")
    try:
        return msgspec.json.decode(data, type=Spec)
    except msgspec.MsgspecError as error:
        raise FormatError(f"{name} is not a world: {error}") from error


def save(spec: Spec, home: Path) -> None:
    """Keep the world's parameters beside its history."""
    home.mkdir(parents=True, exist_ok=True)
    (home / FILE).write_bytes(encoded(spec))


def load(home: Path) -> Spec:
    """The parameters that `save` kept; NotFound if there are none."""
    path = home / FILE
    return decoded(path.read_bytes() if path.exists() else None, str(path))
