"""How users behave on lists of pings: one model for the history (many lists at once) and for live traffic (one list).

A user scans the slots from the top and stops after each with a probability of their own; attention declines as well.
The appeal of a ping at that moment, ground truth plus noise, decides everything else. Arrays are (lists, slots).
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from simulator.people import DEVICES, Floats, Ints
from simulator.world import World, creator_id, ping_number, sigmoid, user_id

Bools = NDArray[np.bool_]

UNKNOWN_PING: Final = -1
"""A ping from outside this world: it gets an impression and no other reaction."""
KINDS: Final = ("impression", "view", "like", "comment", "share", "hide", "report", "follow")

_NOISE: Final = 0.6
"""Standard deviation of an appeal's noise, on the logit scale."""
_FATIGUE: Final = 0.05


@dataclass(frozen=True)
class Reactions:
    """Which of KINDS happened in each slot, how much was watched, and when."""

    done: Bools  # (kinds, lists, slots)
    watch: Floats  # (lists, slots) watch time ratio, 0 without a view
    after_ms: Ints  # (lists, slots) from serving to the impression
    spent_ms: Ints  # (lists, slots) from the impression to the events that follow watching


def react(world: World, user: Ints, pings: Ints, at_ms: Ints, follows: Bools, rng: np.random.Generator) -> Reactions:
    """Reactions of `user` (lists,) to `pings` (lists, slots) served at `at_ms` (lists,).

    `follows` (lists, slots) says whether the user already follows the creator. Pings may be UNKNOWN_PING.
    """
    known = pings != UNKNOWN_PING
    some = np.where(known, pings, 0)
    shape = pings.shape
    appeal = world.appeal(user[:, None], some, at_ms[:, None])
    appeal = sigmoid(appeal + _NOISE * rng.standard_normal(shape))
    engagement = world.users.engagement[user][:, None]
    seen = _scanned(world.users.continuation[user][:, None], rng.random(shape))
    attention = 1 + _FATIGUE * np.arange(shape[1])
    viewed = seen & known & (rng.random(shape) < (0.25 + 0.7 * appeal) / attention)
    watch = np.clip(1.5 * appeal * rng.lognormal(-0.06, 0.35, shape), 0.02, 4.0)
    chances = {
        "like": 0.50 * engagement * appeal**3,
        "comment": 0.08 * engagement * appeal**3,
        "share": 0.10 * engagement * appeal**4,
        "follow": 0.25 * appeal**4 * ~follows,
    }
    done = {kind: viewed & (rng.random(shape) < chance) for kind, chance in chances.items()}
    annoyed = (1 - appeal) ** 4
    # A report needs a bad ping, not only one that does not suit the user.
    bad = sigmoid(-2 - 1.5 * world.pings.quality[some])
    done["hide"] = seen & known & (rng.random(shape) < 0.03 * annoyed)
    done["report"] = seen & known & (rng.random(shape) < 0.01 * annoyed * bad)
    done |= {"impression": seen, "view": viewed}
    watch = np.where(viewed, watch.round(3), 0.0)
    after_ms, spent_ms = _timing(world, some, seen, watch, rng)
    return Reactions(np.stack([done[kind] for kind in KINDS]), watch, after_ms, spent_ms)


def _scanned(continuation: Floats, chance: Floats) -> Bools:
    """The first slot always; each further one if the user continued after the one before."""
    continued = chance < continuation
    continued[:, 0] = True
    return np.logical_and.accumulate(continued, axis=1)


def _timing(world: World, pings: Ints, seen: Bools, watch: Floats, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """The times of impressions and of the events after them; one ping is watched for at most half a minute."""
    watching = np.minimum(watch * world.pings.duration_ms[pings], 30_000)
    spent = (seen * (700 + 800 * rng.random(pings.shape)) + watching).astype(np.int64)
    return 500 + spent.cumsum(axis=1) - spent, spent


def events_of(
    world: World, user: int, items: list[str], pings: Ints, request_id: str, done: Bools, watch: Floats
) -> list[dict[str, Any]]:
    """One user's reactions to the served ids `items` as API events, without ids and times, in the order they happened.

    `pings` and `watch` are (slots,), `done` is (kinds, slots).
    """
    events = []
    common = {
        "user_id": user_id(user),
        "country": world.country(user),
        "language": world.language(user),
        "device": DEVICES[world.users.device[user]],
        "request_id": request_id,
    }
    for slot, kind in np.argwhere(done.T):
        event: dict[str, Any] = {"event_type": KINDS[kind], **common, "ping_id": items[slot]}
        if KINDS[kind] == "follow":
            event["creator_id"] = creator_id(int(world.pings.creator[pings[slot]]))
        else:
            event["position"] = int(slot)
        if KINDS[kind] == "view":
            event["watch_time_ratio"] = float(watch[slot])
        events.append(event)
    return events


def numbers_of(world: World, items: list[str]) -> Ints:
    """The numbers of served ids, UNKNOWN_PING for those from outside this world (or not created yet)."""
    numbers = (ping_number(item) for item in items)
    return np.array([UNKNOWN_PING if n is None or n >= len(world.pings) else n for n in numbers], dtype=np.int64)
