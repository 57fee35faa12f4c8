"""What people do with a list of pings: one model for the history (many lists at once) and for live play (one list).

A user looks at the slots from the top and gives up after each with a probability of their own; looking wears off as
well. The ping's appeal at that moment, the truth plus chance, decides on everything else. Arrays are (lists, slots).
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from simulator.people import DEVICES, Floats, Ints
from simulator.world import World, creator_id, ping_number, sigmoid, user_id

Bools = NDArray[np.bool_]

UNKNOWN_PING: Final = -1
"""A ping that this world did not make: it gets an impression and no other reaction."""
KINDS: Final = ("impression", "view", "like", "comment", "share", "hide", "report", "follow")

_MOMENT: Final = 0.6
"""Deviation of the moment's chance, in units of the appeal's logit."""
_FATIGUE: Final = 0.05


@dataclass(frozen=True)
class Reactions:
    """Which of KINDS happened in each slot, how much was watched, and when after the list was served."""

    done: Bools  # (kinds, lists, slots)
    watch: Floats  # (lists, slots) watch ratio, 0 where there was no view
    after_ms: Ints  # (lists, slots) from serving to the slot's impression
    spent_ms: Ints  # (lists, slots) from the impression to the acts that follow watching


def react(world: World, user: Ints, pings: Ints, at_ms: Ints, follows: Bools, rng: np.random.Generator) -> Reactions:
    """How `user` (lists,) take `pings` (lists, slots) served at `at_ms` (lists,).

    `follows` (lists, slots) says whose creators they follow already. Pings may be UNKNOWN_PING.
    """
    known = pings != UNKNOWN_PING
    some = np.where(known, pings, 0)
    shape = pings.shape
    appeal = world.appeal(user[:, None], some, at_ms[:, None])
    moment = sigmoid(appeal + _MOMENT * rng.standard_normal(shape))
    slot = np.arange(shape[1])
    patience = world.users.patience[user][:, None]
    warmth = world.users.warmth[user][:, None]
    seen = _looked_at(patience, rng.random(shape))
    viewed = seen & known & (rng.random(shape) < (0.25 + 0.7 * moment) / (1 + _FATIGUE * slot))
    watch = np.clip(1.5 * moment * rng.lognormal(-0.06, 0.35, shape), 0.02, 4.0)
    chances = {
        "like": 0.50 * warmth * moment**3,
        "comment": 0.08 * warmth * moment**3,
        "share": 0.10 * warmth * moment**4,
        "follow": 0.25 * moment**4 * ~follows,
    }
    done = {kind: viewed & (rng.random(shape) < chance) for kind, chance in chances.items()}
    annoyed = (1 - moment) ** 4
    # A report needs a bad ping, not only a wrong one.
    bad = sigmoid(-2 - 1.5 * world.pings.quality[some])
    done["hide"] = seen & known & (rng.random(shape) < 0.03 * annoyed)
    done["report"] = seen & known & (rng.random(shape) < 0.01 * annoyed * bad)
    done |= {"impression": seen, "view": viewed}
    watch = np.where(viewed, watch.round(3), 0.0)
    after_ms, spent_ms = _timing(world, some, seen, watch, rng)
    return Reactions(np.stack([done[kind] for kind in KINDS]), watch, after_ms, spent_ms)


def _looked_at(patience: Floats, chance: Floats) -> Bools:
    """The first slot always; each further one if the user went on after the one before."""
    going_on = chance < patience
    going_on[:, 0] = True
    return np.logical_and.accumulate(going_on, axis=1)


def _timing(world: World, pings: Ints, seen: Bools, watch: Floats, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """When each impression and the acts after it happen; one ping is watched for half a minute at most."""
    watching = np.minimum(watch * world.pings.duration_ms[pings], 30_000)
    spent = (seen * (700 + 800 * rng.random(pings.shape)) + watching).astype(np.int64)
    return 500 + spent.cumsum(axis=1) - spent, spent


def events_of(
    world: World, user: int, items: list[str], pings: Ints, request_id: str, acts: Bools, watch: Floats
) -> list[dict[str, Any]]:
    """One user's reactions to the served ids `items` as events of the HTTP interface, without ids and times.

    `pings` and `watch` are (slots,), `acts` (kinds, slots); the events come in the order in which they happened.
    """
    events = []
    common = {
        "user_id": user_id(user),
        "country": world.country(user),
        "language": world.language(user),
        "device": DEVICES[world.users.device[user]],
        "request_id": request_id,
    }
    for slot, kind in np.argwhere(acts.T):
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
    """The numbers of served ids, UNKNOWN_PING for those of another world (or not made yet)."""
    numbers = (ping_number(item) for item in items)
    return np.array([UNKNOWN_PING if n is None or n >= len(world.pings) else n for n in numbers], dtype=np.int64)
