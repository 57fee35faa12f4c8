"""The past weeks of a world, hour by hour: who requested a feed, what was served, how users reacted. No I/O.

The logging policy is stochastic with known propensities, so that the data contains exploration. It mixes four ways to
pick: popular lately, by followed creators, at random, and by the user's topics. Slots are filled one after the other
without repeats, so the propensity of a slot is the ping's weight over the weight of everything not yet placed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pingfeed.core.clock import HOUR_MS
from simulator.behave import KINDS, Bools, Reactions, react
from simulator.people import Floats, Ints, activity_at
from simulator.world import SLOTS, World

Float32 = NDArray[np.float32]

_FOLLOW: Final = KINDS.index("follow")
_POPULAR, _FOLLOWED, _RANDOM, _TOPICAL = 0.3, 0.2, 0.2, 0.3
# Factors on the weight of some pings. They are above 0 because even a tiny world must fill its lists.
_OTHER_LANGUAGE: Final = 0.25
_SEEN: Final = 1e-3
_HIDDEN: Final = 1e-7
_POINTS: Final = {"view": 1.0, "like": 3.0, "comment": 4.0, "share": 5.0}
_HALF_LIFE_HOURS: Final = 36
_BLOCK: Final = 512


@dataclass(frozen=True)
class Served:
    """n served feeds in order of time."""

    request: Ints  # (n,) request numbers, ascending over the history
    user: Ints  # (n,)
    at_ms: Ints  # (n,)
    pings: Ints  # (n, slots)
    propensity: Floats  # (n, slots)


@dataclass(frozen=True)
class Actions:
    """n events of users, each about one slot of one feed."""

    kind: Ints  # (n,) index into KINDS
    request: Ints
    user: Ints
    ping: Ints
    position: Ints
    watch: Floats  # 0 unless the event is a view
    at_ms: Ints  # when it happened
    received_ms: Ints  # when the service received it: seconds later


@dataclass(frozen=True)
class Hour:
    """One hour: the pings created in it, its feeds, and their events (some of which arrive in later hours)."""

    begin_ms: int
    created: Ints  # (n,) ping numbers
    served: Served
    actions: Actions


@dataclass
class PolicyState:
    """What the logging policy knows about all users, updated as the history goes on."""

    popularity: Floats  # (pings,) decayed engagement
    follows: Bools  # (users, creators)
    topical: Float32  # (users, pings) match of topics, above 0
    factor: Float32  # (users, pings) factor on the weight

    @classmethod
    def of(cls, world: World) -> "PolicyState":
        """The state before the first feed."""
        follows = np.zeros((len(world.users), len(world.creators)), np.bool_)
        # einsum instead of @: the last bits of a BLAS product may depend on the number of threads.
        match = np.einsum("ut,pt->up", world.users.interest, world.pings.topics)
        spoken = world.users.language[:, None] == world.creators.language[world.pings.creator]
        factor = np.where(spoken, np.float32(1), np.float32(_OTHER_LANGUAGE))
        return cls(np.zeros(len(world.pings)), follows, np.exp(1.5 * match).astype(np.float32), factor)

    def update(self, world: World, hours: float, user: Ints, pings: Ints, reactions: Reactions) -> None:
        """Decay the popularity by `hours`, then add the reactions of users (lists,) to pings (lists, slots)."""
        self.popularity *= 0.5 ** (hours / _HALF_LIFE_HOURS)
        users = np.broadcast_to(user[:, None], pings.shape)
        done = dict(zip(KINDS, reactions.done, strict=True))
        for kind, points in _POINTS.items():
            np.add.at(self.popularity, pings[done[kind]], points)
        self.follows[users[done["follow"]], world.pings.creator[pings[done["follow"]]]] = True
        for where, factor in ((done["impression"], _SEEN), (done["hide"] | done["report"], _HIDDEN)):
            self.factor[users[where], pings[where]] = factor


def simulate(world: World) -> Iterator[Hour]:
    """The hours from the first to `until_ms`; the same for the same world."""
    spec = world.spec
    rng = np.random.default_rng([spec.seed, 3])
    state = PolicyState.of(world)
    requests = 0
    for begin_ms in range(spec.start_ms, spec.until_ms, HOUR_MS):
        hour = _hour(world, state, begin_ms, min(begin_ms + HOUR_MS, spec.until_ms), requests, rng)
        requests += len(hour.served.request)
        yield hour


def _hour(
    world: World, state: PolicyState, begin_ms: int, end_ms: int, requests: int, rng: np.random.Generator
) -> Hour:
    created_ms = world.pings.created_ms
    user, at_ms = _draw_requests(world, begin_ms, end_ms, rng)
    # A service serves what its last snapshot knew: pings of this hour wait for the next.
    alive = np.flatnonzero(created_ms < begin_ms)
    pings, propensity = draw_lists(world, state, user, alive, min(SLOTS, len(alive)), rng)
    follows = state.follows[user[:, None], world.pings.creator[pings]]
    reactions = react(world, user, pings, at_ms, follows, rng)
    state.update(world, (end_ms - begin_ms) / HOUR_MS, user, pings, reactions)
    served = Served(requests + np.arange(len(user)), user, at_ms, pings, propensity)
    created = np.flatnonzero((created_ms >= begin_ms) & (created_ms < end_ms))
    return Hour(begin_ms, created, served, _actions(world, served, reactions, rng))


def _draw_requests(world: World, begin_ms: int, end_ms: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Users and times of an hour's requests, by each user's activity and local hour."""
    activity = activity_at(np.array([(begin_ms + end_ms) // 2]))[0]
    share = (end_ms - begin_ms) / (24 * HOUR_MS)
    counts = rng.poisson(world.users.feeds_per_day * activity[world.users.place] * share)
    user = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    return user, np.sort(rng.integers(begin_ms, end_ms, len(user)))


def draw_lists(
    world: World, state: PolicyState, user: Ints, alive: Ints, slots: int, rng: np.random.Generator
) -> tuple[Ints, Floats]:
    """Lists of the pings `alive` for requests by `user` (n,), and their propensities: (n, slots) each."""
    blocks = [user[at : at + _BLOCK] for at in range(0, max(1, len(user)), _BLOCK)]
    lists = [_draw_block(_weights(world, state, block, alive), alive, slots, rng) for block in blocks]
    return np.concatenate([pings for pings, _ in lists]), np.concatenate([chances for _, chances in lists])


def _draw_block(weights: Float32, alive: Ints, slots: int, rng: np.random.Generator) -> tuple[Ints, Floats]:
    # An exponential race: the k smallest of Exp(1) / w, in order, are k weighted draws without replacement.
    times = rng.standard_exponential(weights.shape, dtype=np.float32) / weights
    first = np.argpartition(times, slots - 1, axis=1)[:, :slots]
    order = np.take_along_axis(times, first, axis=1).argsort(axis=1)
    chosen = np.take_along_axis(first, order, axis=1)
    weight = np.take_along_axis(weights, chosen, axis=1).astype(np.float64)
    left = weights.sum(axis=1, dtype=np.float64)[:, None] - (weight.cumsum(axis=1) - weight)
    return alive[chosen], np.minimum(1.0, weight / np.maximum(left, weight))


def _weights(world: World, state: PolicyState, user: Ints, alive: Ints) -> Float32:
    """The weight of every ping for each request, (n, alive)."""
    popularity = state.popularity[alive] + 0.5
    followed = state.follows[user][:, world.pings.creator[alive]].astype(np.float32)
    followed /= np.maximum(1, followed.sum(axis=1, keepdims=True))
    topical = state.topical[user[:, None], alive]
    topical /= topical.sum(axis=1, keepdims=True)
    weights = _FOLLOWED * followed + _TOPICAL * topical
    weights += (_POPULAR * popularity / popularity.sum() + _RANDOM / len(alive)).astype(np.float32)
    weights *= state.factor[user[:, None], alive]
    return np.asarray(weights)


def _actions(world: World, served: Served, reactions: Reactions, rng: np.random.Generator) -> Actions:
    """The events in order of arrival, without those that arrive after the end of the history."""
    kind, row, slot = np.nonzero(reactions.done)
    at_ms = served.at_ms[row] + reactions.after_ms[row, slot]
    at_ms = at_ms + np.where(kind == 0, 0, reactions.spent_ms[row, slot])
    received_ms = at_ms + rng.integers(300, 4000, len(at_ms))
    actions = Actions(
        kind=kind,
        request=served.request[row],
        user=served.user[row],
        ping=served.pings[row, slot],
        position=slot,
        watch=np.where(kind == 1, reactions.watch[row, slot], 0.0),
        at_ms=at_ms,
        received_ms=received_ms,
    )
    keep = (received_ms < world.spec.until_ms) & ~_repeated_follow(world, actions)
    order = np.flatnonzero(keep)[received_ms[keep].argsort(kind="stable")]
    return Actions(**{name: column[order] for name, column in vars(actions).items()})


def _repeated_follow(world: World, actions: Actions) -> Bools:
    """Whether the event follows a creator whom the user followed earlier in the hour."""
    follows = np.flatnonzero(actions.kind == _FOLLOW)
    key = actions.user[follows] * len(world.creators) + world.pings.creator[actions.ping[follows]]
    repeated = np.zeros(len(actions.kind), np.bool_)
    repeated[np.delete(follows, np.unique(key, return_index=True)[1])] = True
    return repeated
