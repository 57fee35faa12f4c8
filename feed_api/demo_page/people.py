"""Simulated people to view the feed as: `people.json` in the home, which `pingfeed simulate history` writes.

    {"people": [{"user_id", "country", "language", "feeds_per_day", "likes": [{"topic", "weight"}], "dislikes": [...]}],
     "titles": {topic: [title]}}

Other installations have no such file; there, the visitor types a user id.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from zlib import crc32

import msgspec

from pingfeed.core.integrity import UNREADABLE

log = logging.getLogger(__name__)

FILE: Final = "people.json"


class Preference(msgspec.Struct, frozen=True):
    """How much one topic appeals to a person, in standard deviations over all people."""

    topic: str
    weight: float


class Person(msgspec.Struct, frozen=True):
    """A simulated user; strongest preferences first."""

    user_id: str
    country: str
    language: str
    feeds_per_day: float
    likes: list[Preference]
    dislikes: list[Preference]


class People(msgspec.Struct, frozen=True):
    """The file's content."""

    people: list[Person] = []
    titles: dict[str, list[str]] = {}

    def title(self, ping_id: str, topics: Sequence[str]) -> str | None:
        """A title for a ping, always the same one; None if its first topic has no titles."""
        choices = self.titles.get(topics[0], []) if topics else []
        return choices[crc32(ping_id.encode()) % len(choices)] if choices else None


class PeopleFile:
    """The file in the home, reloaded when it changes (a history may be written while the service runs)."""

    def __init__(self, home: Path) -> None:
        self._path = home / FILE
        self._changed_ns = 0
        self._people = People()

    def read(self) -> People:
        """The people; empty without a readable file."""
        try:
            changed_ns = self._path.stat().st_mtime_ns
            if changed_ns != self._changed_ns:
                self._people = msgspec.json.decode(self._path.read_bytes(), type=People)
                self._changed_ns = changed_ns
        except FileNotFoundError:
            return People()
        except (OSError, *UNREADABLE) as error:
            log.warning("%s is not readable: %s", self._path.name, error)
        return self._people
