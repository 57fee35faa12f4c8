"""Refused events that mention a forgotten user: lines of `rejected/day=YYYY-MM-DD/*.jsonl`.

A refused event is no row, so whose it is has to be read out of what was sent (`mentions.py`): a line goes if it may be
the user's, and was refused by the moment of forgetting. A file of which nothing is left goes.
"""

from pathlib import Path

import msgspec

from batch.forget.forgotten import Forgotten
from batch.rejected_files import keep_lines
from pingfeed.ports import Lake


class _Line(msgspec.Struct):
    body: str
    message: str = ""
    received_ms: int = 0


def remove(lake: Lake, folder: Path | None, path: str, forgotten: Forgotten) -> int:
    """Remove a file's lines about forgotten users; how many there were. `folder`: see `rejected_files.py`."""
    return keep_lines(lake, folder, path, lambda line: not _is_about(line, forgotten))


def _is_about(line: bytes, forgotten: Forgotten) -> bool:
    try:
        found = msgspec.json.decode(line, type=_Line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return bool(forgotten.mentioned(line.decode("utf-8", "backslashreplace"), 0))
    return any(forgotten.mentioned(text, found.received_ms) for text in (found.body, found.message))
