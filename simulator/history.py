"""Weeks of a world's past, hour by hour: who asked for a feed, what was served, what they did. No input or output here.

Everything of an hour is drawn at once. `play` yields the hours; `columns.py` makes them rows of the lake.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from pingfeed.core.clock import HOUR_MS
from simulator.behave import KINDS, Reactions, react
from simulator.click_model import Past, choose
from simulator.people import Floats, Ints, rhythm
from simulator.world import SLOTS, World

_FOLLOW: Final = KINDS.index("follow")


@dataclass(frozen=True)
class Served:
    """n feeds that were served, in order of time."""

    request: Ints  # (n,) numbers, ascending over the history
    user: Ints  # (n,)
    at_ms: Ints  # (n,)
    pings: Ints  # (n, slots)
    propensity: Floats  # (n, slots)


@dataclass(frozen=True)
class Acts:
    """n events by users, each about one slot of one feed."""

    kind: Ints  # (n,) into KINDS
    request: Ints
    user: Ints
    ping: Ints
    position: Ints
    watch: Floats  # 0 where the event is not a view
    at_ms: Ints  # when it happened
    received_ms: Ints  # when the service learned of it: seconds later


@dataclass(frozen=True)
class Hour:
    """One hour: pings that appeared in it, feeds, and what came of them (which may spill into the next hours)."""

    begin_ms: int
    end_ms: int
    created: Ints  # (n,) ping numbers
    served: Served
    acts: Acts


def play(world: World) -> Iterator[Hour]:
    """The hours from the first to `until_ms`; the same for the same world."""
    spec = world.spec
    rng = np.random.default_rng([spec.seed, 3])
    past = Past.of(world)
    requests = 0
    for begin_ms in range(spec.start_ms, spec.until_ms, HOUR_MS):
        end_ms = min(begin_ms + HOUR_MS, spec.until_ms)
        hour = _hour(world, past, begin_ms, end_ms, requests, rng)
        requests += len(hour.served.request)
        yield hour


def _hour(world: World, past: Past, begin_ms: int, end_ms: int, requests: int, rng: np.random.Generator) -> Hour:
    created_ms = world.pings.created_ms
    user, at_ms = _who_asks(world, begin_ms, end_ms, rng)
    # A service serves what its last snapshot knew: pings of this hour wait for the next.
    alive = np.flatnonzero(created_ms < begin_ms)
    pings, propensity = choose(world, past, user, alive, min(SLOTS, len(alive)), rng)
    follows = past.follows[user[:, None], world.pings.creator[pings]]
    reactions = react(world, user, pings, at_ms, follows, rng)
    past.fade((end_ms - begin_ms) / HOUR_MS)
    past.learn(world, user, pings, reactions)
    served = Served(requests + np.arange(len(user)), user, at_ms, pings, propensity)
    created = np.flatnonzero((created_ms >= begin_ms) & (created_ms < end_ms))
    return Hour(begin_ms, end_ms, created, served, _acts(world, served, reactions, rng))


def _who_asks(world: World, begin_ms: int, end_ms: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Users and times of an hour's requests, by everyone's activity and the hour of their day."""
    busy = rhythm(np.array([(begin_ms + end_ms) // 2]))[0]
    share = (end_ms - begin_ms) / (24 * HOUR_MS)
    counts = rng.poisson(world.users.feeds_per_day * busy[world.users.place] * share)
    user = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    return user, np.sort(rng.integers(begin_ms, end_ms, len(user)))


def _acts(world: World, served: Served, reactions: Reactions, rng: np.random.Generator) -> Acts:
    """What happened as columns, in order of arrival, without what arrives after the history's end."""
    kind, row, slot = np.nonzero(reactions.done)
    at_ms = served.at_ms[row] + reactions.after_ms[row, slot]
    at_ms = at_ms + np.where(kind == 0, 0, reactions.spent_ms[row, slot])
    received_ms = at_ms + rng.integers(300, 4000, len(at_ms))
    acts = Acts(
        kind=kind,
        request=served.request[row],
        user=served.user[row],
        ping=served.pings[row, slot],
        position=slot,
        watch=np.where(kind == 1, reactions.watch[row, slot], 0.0),
        at_ms=at_ms,
        received_ms=received_ms,
    )
    keep = (received_ms < world.spec.until_ms) & _first_follow(world, acts)
    order = np.flatnonzero(keep)[received_ms[keep].argsort(kind="stable")]
    return Acts(**{name: column[order] for name, column in vars(acts).items()})


def _first_follow(world: World, acts: Acts) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """False where the user followed the creator twice within the hour, at the later ones."""
    keep = np.ones(len(acts.kind), np.bool_)
    follows = np.flatnonzero(acts.kind == _FOLLOW)
    key = acts.user[follows] * len(world.creators) + world.pings.creator[acts.ping[follows]]
    keep[follows] = False
    keep[follows[np.unique(key, return_index=True)[1]]] = True
    return keep
