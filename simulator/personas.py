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
from simulator.world import World, user_id

FILE: Final = "people.json"
_LIKES: Final = 5
_DISLIKES: Final = 2
# Titles are for the demo page: no service ever sees one.
ANGLES: Final = (
    "in one minute",
    "the slow way",
    "what went wrong",
    "for beginners",
    "five small tricks",
    "one year later",
    "your questions answered",
    "the honest version",
)
SUBJECTS: Final = {
    "animals": ("Cats of the old harbour", "Training a stubborn beagle", "Urban foxes", "A parrot that whistles"),
    "art": ("Watercolour skies", "Drawing hands", "A mural in three nights", "Museum corners no one visits"),
    "books": ("Short novels worth a weekend", "Reading the classics", "Second-hand finds", "A chapter a day"),
    "cars": ("Rebuilding a 1987 estate", "City driving, electric", "Rust repair", "Weekend rally notes"),
    "comedy": ("Open mic night", "Flatmate impressions", "Office small talk", "A joke told badly"),
    "cooking": ("Sourdough at home", "Weeknight curry", "Knife skills", "Leftover rice"),
    "dance": ("Salsa basics", "A studio warm-up", "Learning the shuffle", "Two left feet"),
    "diy": ("A shelf without screws", "Fixing a dripping tap", "Pallet furniture", "Painting a small room"),
    "education": ("Fractions that make sense", "Learning Portuguese", "Study plans", "Memory palaces"),
    "fashion": ("A capsule wardrobe", "Mending denim", "Thrift shop coats", "One jacket, many outfits"),
    "film": ("Films under ninety minutes", "Long takes", "Practical effects", "Endings that work"),
    "fitness": ("Mobility before breakfast", "Couch to five kilometres", "Kettlebells at home", "Rest days"),
    "football": ("Sunday league", "The offside trap", "Penalty nerves", "Transfer rumours"),
    "gaming": ("Speedrunning a classic", "Cosy farming games", "Building a castle", "Couch co-op"),
    "gardening": ("Tomatoes on a balcony", "Composting", "Pruning roses", "A herb shelf"),
    "music": ("Four chords", "Recording in a wardrobe", "Learning the cello", "Street drummers"),
    "news": ("The week in transit", "Council meetings", "A strike explained", "Local elections"),
    "parenting": ("Bedtime", "Lunch boxes", "First day of school", "Rainy afternoons"),
    "science": ("Why the sky is blue", "Kitchen chemistry", "Tides", "A telescope on a budget"),
    "travel": ("Night trains", "Lisbon on foot", "Packing light", "A detour through the hills"),
}


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


def titles() -> dict[str, list[str]]:
    """Every title that a ping may have, by its first topic."""
    return {topic: [f"{subject}: {angle}" for angle in ANGLES for subject in SUBJECTS[topic]] for topic in SUBJECTS}
