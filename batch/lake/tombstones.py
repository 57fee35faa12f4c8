"""Deletion requests, and which rows they cover. No user id is stored, only its hash.

    forgotten/pending/<at_ms>-<hash>.json    the nightly job has yet to run
    forgotten/<at_ms>-<hash>.json            done; kept for good, so that an import does not bring the user back

    {"hash": "0f9c...", "at_ms": 1795348800000, "tick": 1994833, "unreadable": []}

Events received up to `at_ms` are covered. A user who comes back later starts anew.
"""

import hashlib
import logging
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from batch.lake.tables import FORGOTTEN
from pingfeed.core.events import CLIENT_TYPES, COLUMNS, SYSTEM_TYPES
from pingfeed.core.integrity import UNREADABLE
from pingfeed.ports import Lake

CONTENT: Final = ("ping_created", "ping_deleted")
"""Events that stay, without the user's id: what a user published is content."""
_ANY_TICK: Final = 1 << 40
_LOG = logging.getLogger(__name__)
_PENDING: Final = f"{FORGOTTEN}/pending/"
_AT_ONCE: Final = 16
_ID: Final = "[A-Za-z0-9._:@-]{1,128}"
_NAMED: Final = re.compile(rf"user_?id[\"'\\]*\s*[:=]\s*[\"'\\]*({_ID})", re.IGNORECASE)
_QUOTED: Final = re.compile(rf"(?<=[\"']){_ID}(?=\\*[\"'])")
_WORDS: Final = {column.name for column in COLUMNS} | {"timestamp", "sent_at"} | set(CLIENT_TYPES) | SYSTEM_TYPES


class DeletionRequest(msgspec.Struct, kw_only=True):
    """One request to forget a user."""

    hash: str
    at_ms: int
    """Events received up to this moment are removed."""
    tick: int
    """The last tick that may have counted one of them: the user's aggregates up to it are removed."""
    unreadable: list[str] = []
    """Raw files that the nightly job could not read."""


class DeletionRequests:
    """The deletion requests of one lake."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    def pending(self) -> list[DeletionRequest]:
        """Those that wait for the nightly job, oldest first."""
        return self._load(path for path in self._lake.list(FORGOTTEN) if path.startswith(_PENDING))

    def done_since(self, ms: int = 0) -> list[DeletionRequest]:
        """Those that were made since a moment and are done, oldest first."""
        paths = (path for path in self._lake.list(FORGOTTEN) if not path.startswith(_PENDING))
        return self._load(path for path in paths if int(path.rpartition("/")[2].partition("-")[0]) >= ms)

    def add(self, request: DeletionRequest) -> None:
        """Store a request. Storing it again changes nothing."""
        if _name(request) not in {path.rpartition("/")[2] for path in self._lake.list(FORGOTTEN)}:
            self._lake.write(_PENDING + _name(request), msgspec.json.encode(request))

    def finish(self, request: DeletionRequest) -> None:
        """Make a pending request a done one."""
        self._lake.write(f"{FORGOTTEN}/{_name(request)}", msgspec.json.encode(request))
        self._lake.delete(_PENDING + _name(request))

    def _load(self, paths: Iterable[str]) -> list[DeletionRequest]:
        found = list(paths)
        with ThreadPoolExecutor(_AT_ONCE, "deletion requests") as pool:
            return [_read(path, data) for path, data in zip(found, pool.map(self._lake.read, found), strict=True)]


class Forgotten:
    """The users of some deletion requests, known by hash. For any number of threads; each id is hashed once."""

    def __init__(self, requests: Iterable[DeletionRequest]) -> None:
        self._requests: dict[str, DeletionRequest] = {}
        for request in sorted(requests, key=lambda request: request.at_ms):
            self._requests[request.hash] = request
        self._looked_up: dict[str, DeletionRequest | None] = {}

    def __bool__(self) -> bool:
        return bool(self._requests)

    def among(self, user_ids: Iterable[str], clock: str, at: int) -> list[str]:
        """Those whose data of the moment `at`, in the unit of the column `clock`, are covered."""
        return [user_id for user_id in user_ids if self._until(user_id, clock) >= at]

    def rows(self, table: pa.Table, clock: str) -> pa.ChunkedArray | None:
        """Which rows are covered, by `user_id` and `clock` (ticks or milliseconds), as booleans; None if none is.

        A row without a time is covered.
        """
        if not self or "user_id" not in table.column_names:
            return None
        users = table["user_id"].cast(pa.string())
        until = {user_id: self._until(user_id, clock) for user_id in pc.unique(users).drop_null().to_pylist()}
        until = {user_id: limit for user_id, limit in until.items() if limit >= 0}
        if not until:
            return None
        place = pc.index_in(users, value_set=pa.array(until, pa.string()))
        limit = pc.take(pa.array(until.values(), pa.int64()), place)
        found = pc.fill_null(pc.less_equal(pc.fill_null(table[clock].cast(pa.int64()), 0), limit), False)
        return found if pc.any(found).as_py() else None

    def without(self, table: pa.Table, clock: str) -> pa.Table:
        """The table without covered rows; content (`CONTENT`) stays and loses its user id."""
        gone = self.rows(table, clock)
        if gone is None:
            return table
        if "event_type" in table.column_names:
            users = pc.if_else(gone, pa.scalar(None, pa.string()), table["user_id"].cast(pa.string()))
            kept = is_content(table)
            table = table.set_column(table.column_names.index("user_id"), "user_id", users)
            gone = pc.and_(gone, pc.invert(kept))
        return table.filter(pc.invert(gone))

    def mentioned_in(self, document: str, received_ms: int) -> bool:
        """Whether a malformed row that arrived at `received_ms` may be about one of the users."""
        return bool(self) and bool(self.among(find_user_ids(document), "received_ms", received_ms))

    def _until(self, user_id: str, clock: str) -> int:
        """Up to when a user's rows are covered; -1 for another user."""
        if user_id not in self._looked_up:
            self._looked_up[user_id] = self._requests.get(hash_of(user_id))
        request = self._looked_up[user_id]
        return -1 if request is None else request.at_ms if clock.endswith("_ms") else request.tick


def pending(lake: Lake) -> Forgotten:
    """The users whose data the nightly job has yet to remove."""
    return Forgotten(DeletionRequests(lake).pending())


def every_deleted(lake: Lake) -> Forgotten:
    """All users who were deleted."""
    requests = DeletionRequests(lake)
    return Forgotten([*requests.pending(), *requests.done_since()])


def is_content(table: pa.Table) -> Any:
    """Which events are about what was published."""
    return pc.fill_null(pc.is_in(table["event_type"].cast(pa.string()), value_set=pa.array(CONTENT)), False)


def find_user_ids(document: str) -> set[str]:
    """Find the user ids that a malformed row mentions: its `user_id`; where it names none, any word in quotes.

    Words of the schema in quotes are not ids, so a user named `view` does not take the rows of others along.
    """
    try:
        found: Any = msgspec.json.decode(document.encode())
    except UNREADABLE:
        found = None
    if isinstance(found, dict) and isinstance(found.get("user_id"), str):
        return {found["user_id"]}
    named = _NAMED.search(document)
    return {named[1]} if named else {word for word in _QUOTED.findall(document) if word not in _WORDS}


def hash_of(user_id: str) -> str:
    """32 hex digits that stand for an id."""
    return hashlib.blake2b(user_id.encode(), digest_size=16, person=b"pingfeed forget").hexdigest()


def _read(path: str, data: bytes) -> DeletionRequest:
    """A stored request. A damaged one is known by its name but for its tick: all aggregates of the user are covered."""
    try:
        found = msgspec.json.decode(data, type=DeletionRequest)
    except UNREADABLE as error:
        _LOG.error("%s is damaged; its name says what it was: %s", path, error)
    else:
        if _name(found) == path.rpartition("/")[2]:
            return found
    at_ms, _, digest = path.rpartition("/")[2].removesuffix(".json").partition("-")
    return DeletionRequest(hash=digest, at_ms=int(at_ms), tick=_ANY_TICK)


def _name(request: DeletionRequest) -> str:
    return f"{request.at_ms}-{request.hash}.json"
