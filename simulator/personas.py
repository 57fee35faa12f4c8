"""`people.json`: what a person who looks at a world may know of its people. The feed's demo page shows it.

It is the truth about their expressed tastes, so it lies beside the lake and never in it. Format:

    {"people": [{"user_id", "country", "language", "feeds_per_day", "likes": [{"topic", "weight"}], "dislikes": [...]}],
     "titles": {topic: [title]}}

A weight is in standard deviations of a topic's appeal over all people. `titles` are what a page may call a ping that
has the topic first; which of them is the page's choice.
"""

from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from simulator.people import TOPICS
from simulator.titles import titles
from simulator.world import World, user_id

FILE: Final = "people.json"
_LIKES: Final = 5
_DISLIKES: Final = 2


class Preference(msgspec.Struct, frozen=True):
    """How much one topic appeals."""

    topic: str
    weight: float


class Portrait(msgspec.Struct, frozen=True):
    """One user; strongest tastes first."""

    user_id: str
    country: str
    language: str
    feeds_per_day: float
    likes: list[Preference]
    dislikes: list[Preference]


class Gallery(msgspec.Struct, frozen=True):
    """The file."""

    people: list[Portrait]
    titles: dict[str, list[str]]


def gallery(world: World) -> Gallery:
    """Every user's portrait, in order of their numbers."""
    return Gallery([_portrait(world, number) for number in range(len(world.users))], titles())


def _portrait(world: World, number: int) -> Portrait:
    interest = world.users.interest[number]
    order = np.argsort(-interest, kind="stable").tolist()
    tastes = [Preference(TOPICS[topic], round(float(interest[topic]), 2)) for topic in order]
    return Portrait(
        user_id=user_id(number),
        country=world.country(number),
        language=world.language(number),
        feeds_per_day=round(float(world.users.feeds_per_day[number]), 1),
        likes=tastes[:_LIKES],
        dislikes=tastes[: -_DISLIKES - 1 : -1],
    )


def encoded(world: World) -> bytes:
    """The file's bytes."""
    return msgspec.json.encode(gallery(world))


def save(world: World, home: Path) -> None:
    """Write the file into the folder that holds the world."""
    home.mkdir(parents=True, exist_ok=True)
    (home / FILE).write_bytes(encoded(world))
