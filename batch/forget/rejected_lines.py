"""Refused events that mention a forgotten user: lines of `rejected/day=YYYY-MM-DD/*.jsonl`.

A refused event is no row, so whose it is has to be read out of what was sent (`mentions.py`): a line goes if it may be
the user's, and was refused by the moment of forgetting. A file of which nothing is left goes.

What the raw zone held (`raw-*.jsonl`) was accepted, and lies nowhere else once its source is compacted: where it counts
as landed, it counts as an acceptance that goes.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from batch.accounting.landed import key_of
from batch.accounting.refused import is_of_raw_zone
from batch.forget.forgotten import Forgotten
from batch.rejected_files import keep_lines
from pingfeed.ports import Lake

Acceptance = tuple[str, str, int]
"""`user_id`, `event_id`, `received_ms`."""


class _Line(msgspec.Struct):
    body: str
    message: str = ""
    received_ms: int = 0


def remove(lake: Lake, folder: Path | None, path: str, forgotten: Forgotten) -> int:
    """Remove a file's lines about forgotten users; how many there were. `folder`: see `rejected_files.py`."""
    return keep_lines(lake, folder, path, lambda line: not _whose(line, forgotten))


def held(lake: Lake, path: str, forgotten: Forgotten) -> list[Acceptance]:
    """The acceptances of forgotten users that `remove` would take out of a file of the raw zone. Raises Unavailable."""
    found: list[Acceptance] = []
    for line in lake.read(path).splitlines() if is_of_raw_zone(path) else ():
        if whose := _whose(line, forgotten):
            found += acceptances_of(msgspec.json.decode(line)["body"], whose)
    return found


def acceptances_of(document: str, whose: Sequence[str]) -> list[Acceptance]:
    """What goes with a document that is no row, of one of those whose it may be: it counts as it would as landed."""
    key = key_of(document)
    return [(whose[0], key[1], key[2])] if key else []


def _whose(line: bytes, forgotten: Forgotten) -> list[str]:
    try:
        found = msgspec.json.decode(line, type=_Line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return forgotten.mentioned(line.decode("utf-8", "backslashreplace"), 0)
    texts = (found.body, found.message)
    return [user_id for text in texts for user_id in forgotten.mentioned(text, found.received_ms)]
