"""Who was forgotten, and when: notes in the lake in which no id stands.

    forgotten/pending/<at_ms>-<hash>.json    asked for; the night has not been yet
    forgotten/<at_ms>-<hash>.json            done

    {"hash": "0f9c...", "at_ms": 1795348800000, "tick": 1994833, "done_ms": 1795402800000, "run": 199489200,
     "removed": {"2026-11-22": 12}, "counted": [], "unreadable": []}

`hash` is that of the user's id (`hash_of`): whoever has an id can see whether it was forgotten, and nobody can read ids
out of it. A note is kept for good: what arrives later, or is imported again, with a time of arrival up to `at_ms` is
dropped by every run. A listing says enough for that; only few notes are ever opened. A user who is forgotten twice has
two notes, and who comes back after `at_ms` starts anew.
"""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import msgspec

from pingfeed.ports import Lake

FOLDER: Final = "forgotten"
_PENDING: Final = f"{FOLDER}/pending/"
_AT_ONCE: Final = 16


class Tombstone(msgspec.Struct, kw_only=True):
    """One wish to be forgotten, and what became of it."""

    hash: str
    at_ms: int
    """Events that were received up to this moment are to go."""
    tick: int
    """The last tick that may have learned of one of them: the user's buckets up to it go."""
    done_ms: int | None = None
    """When the night had removed them."""
    run: int | None = None
    """That night's run: raw files that later runs read may hold latecomers."""
    removed: dict[str, int] = {}
    """Acceptances (`user_id`, `event_id`, `received_ms`) that left the raw files, by their UTC day of arrival."""
    counted: list[str] = []
    """Raw files whose rows are in `removed` and that may still hold them: a night is at work, or died."""
    unreadable: list[str] = []
    """Raw files that could not be looked at."""


class Tombstones:
    """The notes of one lake."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    def until_ms(self) -> dict[str, int]:
        """Hash to the latest moment of forgetting, of everybody who ever was; costs a listing."""
        until: dict[str, int] = {}
        for path in self._lake.list(FOLDER):
            at_ms, hashed = _named(path)
            until[hashed] = max(at_ms, until.get(hashed, 0))
        return until

    def pending(self) -> list[Tombstone]:
        """Those that wait for the night, oldest first."""
        return self._opened(path for path in self._lake.list(FOLDER) if path.startswith(_PENDING))

    def done_since(self, ms: int) -> list[Tombstone]:
        """Those that are done and were asked for since a moment, oldest first."""
        paths = (path for path in self._lake.list(FOLDER) if not path.startswith(_PENDING))
        return self._opened(path for path in paths if _named(path)[0] >= ms)

    def add(self, stone: Tombstone) -> None:
        """Note a wish; one that was noted before stays as it is."""
        if not {_path(stone), _pending_path(stone)} & set(self._lake.list(FOLDER)):
            self._write(_pending_path(stone), stone)

    def keep(self, stone: Tombstone) -> None:
        """Write how far it has come; a pending one that is done is one of the others from now on."""
        if stone.done_ms is None:
            self._write(_pending_path(stone), stone)
            return
        self._write(_path(stone), stone)
        self._lake.delete(_pending_path(stone))

    def _opened(self, paths: Iterable[str]) -> list[Tombstone]:
        with ThreadPoolExecutor(_AT_ONCE, "tombstones") as pool:
            return [msgspec.json.decode(data, type=Tombstone) for data in pool.map(self._lake.read, paths)]

    def _write(self, path: str, stone: Tombstone) -> None:
        self._lake.write(path, msgspec.json.format(msgspec.json.encode(stone)))


def hash_of(user_id: str) -> str:
    """32 hex digits that stand for an id."""
    return hashlib.blake2b(user_id.encode(), digest_size=16, person=b"pingfeed forget").hexdigest()


def _named(path: str) -> tuple[int, str]:
    at_ms, _, hashed = path.rpartition("/")[2].removesuffix(".json").partition("-")
    return int(at_ms), hashed


def _path(stone: Tombstone) -> str:
    return f"{FOLDER}/{stone.at_ms}-{stone.hash}.json"


def _pending_path(stone: Tombstone) -> str:
    return f"{_PENDING}{stone.at_ms}-{stone.hash}.json"
