"""`people.json`: the users of a world as the feed's demo page shows them. Format:

    {"people": [{"user_id", "country", "language", "feeds_per_day", "likes": [{"topic", "weight"}], "dislikes": [...]}],
     "titles": {topic: [title]}}

A weight is in standard deviations of a topic's appeal over all users. The page gives each ping one of the titles of its
first topic. Preferences are ground truth, so the file lies beside the lake and never in it.
"""

from typing import Any, Final

import msgspec
import numpy as np

from simulator.people import SUBJECTS, TOPICS
from simulator.world import World, user_id

FILE: Final = "people.json"
_LIKES: Final = 5
_DISLIKES: Final = 2
_ANGLES: Final = (
    "in one minute",
    "the slow way",
    "what went wrong",
    "for beginners",
    "five small tricks",
    "one year later",
    "your questions answered",
    "the honest version",
)


def encode(world: World) -> bytes:
    """The file's bytes; users in the order of their numbers."""
    titles = {topic: [f"{subject}: {angle}" for angle in _ANGLES for subject in SUBJECTS[topic]] for topic in TOPICS}
    people = [_persona(world, number) for number in range(len(world.users))]
    return msgspec.json.encode({"people": people, "titles": titles})


def _persona(world: World, number: int) -> dict[str, Any]:
    """One user, strongest preferences first."""
    interest = world.users.interest[number]
    order = np.argsort(-interest, kind="stable").tolist()
    preferences = [{"topic": TOPICS[topic], "weight": round(float(interest[topic]), 2)} for topic in order]
    return {
        "user_id": user_id(number),
        "country": world.country(number),
        "language": world.language(number),
        "feeds_per_day": round(float(world.users.feeds_per_day[number]), 1),
        "likes": preferences[:_LIKES],
        "dislikes": preferences[: -_DISLIKES - 1 : -1],
    }
