"""Who was shown what in the history: a stochastic policy with known probabilities, so that the data has exploration.

Each request mixes four ways to pick: popular lately, by followed creators, by chance, and by a rough idea of the
user's topics. Slots are drawn one after the other without repeats, so a slot's propensity is the ping's weight over
the weight of all that earlier slots left over.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulator.behave import KINDS, Reactions
from simulator.people import Floats, Ints
from simulator.world import World

Float32 = NDArray[np.float32]

_POPULAR, _FOLLOWED, _CHANCE, _TOPICAL = 0.3, 0.2, 0.2, 0.3
_FOREIGN: Final = 0.25
_SEEN: Final = 1e-3
_HIDDEN: Final = 1e-7
"""What is left of the weight of a ping in another language, seen, or hidden: a tiny world must still fill its lists."""
_POINTS: Final = {"view": 1.0, "like": 3.0, "comment": 4.0, "share": 5.0}
_HALF_LIFE_HOURS: Final = 36
_BLOCK: Final = 512


@dataclass
class Past:
    """What the policy remembers of everybody, updated as the history goes on."""

    heat: Floats  # (pings,) decayed engagement
    follows: NDArray[np.bool_]  # (users, creators)
    topical: Float32  # (users, pings) how well the topics suit, above 0
    factor: Float32  # (users, pings) on the weight: 1, _FOREIGN, _SEEN or _HIDDEN

    @classmethod
    def of(cls, world: World) -> "Past":
        """Nothing has happened yet."""
        follows = np.zeros((len(world.users), len(world.creators)), np.bool_)
        # einsum and not @: a BLAS may give other last bits with another number of threads.
        suits = np.einsum("ut,pt->up", world.users.interest, world.pings.topics)
        spoken = world.users.language[:, None] == world.creators.language[world.pings.creator]
        factor = np.where(spoken, np.float32(1), np.float32(_FOREIGN))
        return cls(np.zeros(len(world.pings)), follows, np.exp(1.5 * suits).astype(np.float32), factor)

    def fade(self, hours: float) -> None:
        """Let the heat of the past decay."""
        self.heat *= 0.5 ** (hours / _HALF_LIFE_HOURS)

    def learn(self, world: World, user: Ints, pings: Ints, reactions: Reactions) -> None:
        """Take in what users (lists,) did with pings (lists, slots)."""
        whose = np.broadcast_to(user[:, None], pings.shape)
        done = dict(zip(KINDS, reactions.done, strict=True))
        for kind, points in _POINTS.items():
            np.add.at(self.heat, pings[done[kind]], points)
        followed = done["follow"]
        self.follows[whose[followed], world.pings.creator[pings[followed]]] = True
        for where, factor in ((done["impression"], _SEEN), (done["hide"] | done["report"], _HIDDEN)):
            self.factor[whose[where], pings[where]] = factor


def choose(
    world: World, past: Past, user: Ints, alive: Ints, slots: int, rng: np.random.Generator
) -> tuple[Ints, Floats]:
    """Lists of pings for requests by `user` (n,) from the pings `alive`, with their propensities: (n, slots) each."""
    parts = [
        _choose(world, past, user[at : at + _BLOCK], alive, slots, rng) for at in range(0, max(1, len(user)), _BLOCK)
    ]
    return np.concatenate([pings for pings, _ in parts]), np.concatenate([chances for _, chances in parts])


def _choose(
    world: World, past: Past, user: Ints, alive: Ints, slots: int, rng: np.random.Generator
) -> tuple[Ints, Floats]:
    weights = _weights(world, past, user, alive)
    # An exponential race: the k smallest of Exp(1) / w, in order, are k draws by weight without repeats.
    times = rng.standard_exponential(weights.shape, dtype=np.float32) / weights
    first = np.argpartition(times, slots - 1, axis=1)[:, :slots]
    order = np.take_along_axis(times, first, axis=1).argsort(axis=1)
    chosen = np.take_along_axis(first, order, axis=1)
    weight = np.take_along_axis(weights, chosen, axis=1).astype(np.float64)
    left = weights.sum(axis=1, dtype=np.float64)[:, None] - (weight.cumsum(axis=1) - weight)
    return alive[chosen], np.minimum(1.0, weight / np.maximum(left, weight))


def _weights(world: World, past: Past, user: Ints, alive: Ints) -> Float32:
    """The mixture's weight of every living ping for each request, (n, alive)."""
    creator = world.pings.creator[alive]
    heat = past.heat[alive] + 0.5
    followed = past.follows[user][:, creator].astype(np.float32)
    followed /= np.maximum(1, followed.sum(axis=1, keepdims=True))
    topical = past.topical[user[:, None], alive]
    topical /= topical.sum(axis=1, keepdims=True)
    weights = _FOLLOWED * followed + _TOPICAL * topical
    weights += (_POPULAR * heat / heat.sum() + _CHANCE / len(alive)).astype(np.float32)
    weights *= past.factor[user[:, None], alive]
    return np.asarray(weights)
