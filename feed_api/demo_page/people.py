"""People to be, with their tastes: `people.json` in the home, which a simulated world leaves there.

    {"people": [{"user_id", "country", "language", "feeds_per_day", "likes": [{"topic", "weight"}], "dislikes": [...]}],
     "titles": {topic: [title]}}

In any other installation there is no such file, and the page lets its visitor type a user id.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from zlib import crc32

import msgspec

log = logging.getLogger(__name__)

FILE: Final = "people.json"


class UserProfile(msgspec.Struct, frozen=True):
    """How much one topic appeals to a person, in standard deviations over all people."""

    topic: str
    weight: float


class Person(msgspec.Struct, frozen=True):
    """Somebody to be; strongest tastes first."""

    user_id: str
    country: str
    language: str
    feeds_per_day: float
    likes: list[UserProfile]
    dislikes: list[UserProfile]


class Gallery(msgspec.Struct, frozen=True):
    """The file. `titles` are what a ping with this first topic may be called."""

    people: list[Person] = []
    titles: dict[str, list[str]] = {}

    def title(self, ping_id: str, topics: Sequence[str]) -> str | None:
        """What to call a ping, always the same; None where the world has no title for it."""
        choices = self.titles.get(topics[0], []) if topics else []
        return choices[crc32(ping_id.encode()) % len(choices)] if choices else None


class GalleryFile:
    """The gallery in the home, read again when the file has changed (a history may be written while this serves)."""

    def __init__(self, home: Path) -> None:
        self._path = home / FILE
        self._changed_ns = 0
        self._gallery = Gallery()

    def read(self) -> Gallery:
        """The gallery, an empty one where there is no file that can be read."""
        try:
            changed_ns = self._path.stat().st_mtime_ns
            if changed_ns != self._changed_ns:
                self._gallery = msgspec.json.decode(self._path.read_bytes(), type=Gallery)
                self._changed_ns = changed_ns
        except FileNotFoundError:
            return Gallery()
        except (OSError, msgspec.DecodeError) as error:
            log.warning("%s is not readable: %s", self._path.name, error)
        return self._gallery
