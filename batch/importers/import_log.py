"""What was imported before: `imports/<digest of the content>.json` in the lake.

A log that is moved in time ends at the last tick before now, and "now" differs at every run: so the times that a log
first got are kept, and whatever is imported from the same content later gets the same ones.
"""

from collections.abc import Mapping
from hashlib import blake2b

import msgspec

from batch.importers.staging import Timeline
from pingfeed.core.errors import InvalidInput, NotFound
from pingfeed.ports import Lake


class Import(msgspec.Struct, kw_only=True):
    """One import of a log: with which options, and what came of it."""

    options: dict[str, str]
    at_ms: int
    finished: bool = False
    """False while it runs, and after it was interrupted: then it may be run again, with the same result."""
    events: int = 0
    files: list[str] = []


class Log(msgspec.Struct, kw_only=True):
    """All that is remembered of one content."""

    name: str
    """The file's name when it was first imported."""
    placing: str
    """How the caller wanted its times placed."""
    timeline: Timeline
    end_ms: int
    now_ms: int
    tick_ms: int
    imports: dict[str, Import] = {}


def recall(lake: Lake, digest: str) -> Log | None:
    """What is remembered of a content, None for a new one."""
    try:
        return msgspec.json.decode(lake.read(_path(digest)), type=Log)
    except NotFound:
        return None


def remember(lake: Lake, digest: str, log: Log) -> None:
    """Keep it."""
    lake.write(_path(digest), msgspec.json.format(msgspec.json.encode(log)))


def check_placing(log: Log, placing: str) -> None:
    """InvalidInput if the caller now wants other times than the log got: its events would be there twice."""
    if log.placing != placing:
        raise InvalidInput(
            f"this log was imported before with other times ({log.placing}, now {placing}): its events would be there "
            "twice; choose another PINGFEED_HOME to try other times"
        )


def key_of(options: Mapping[str, str]) -> str:
    """8 hex digits that identify the options."""
    text = msgspec.json.encode(options, order="sorted")
    return blake2b(text, digest_size=4).hexdigest()


def _path(digest: str) -> str:
    return f"imports/{digest}.json"
