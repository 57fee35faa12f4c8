"""Refused events that mention a forgotten user: lines of `rejected/day=YYYY-MM-DD/*.jsonl`.

A refused event is no row, so whose it is has to be read out of what was sent: a line goes if an id in quotes, or one
after `user_id`, is the user's, and it was refused by the moment of forgetting. A file of which nothing is left goes.
"""

from pathlib import Path
from typing import Any

import msgspec

from batch.forget.forgotten import Forgotten
from batch.rejected_files import keep_lines
from pingfeed.ports import Lake


def remove(lake: Lake, folder: Path | None, path: str, forgotten: Forgotten) -> int:
    """Remove a file's lines about forgotten users; how many there were. `folder`: see `rejected_files.py`."""
    return keep_lines(lake, folder, path, lambda line: not _is_about(line, forgotten))


def _is_about(line: bytes, forgotten: Forgotten) -> bool:
    try:
        values = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return forgotten.mentioned(line.decode("utf-8", "backslashreplace"), 0)
    received_ms = values.get("received_ms")
    text = "\n".join(value for value in values.values() if isinstance(value, str))
    return forgotten.mentioned(text, received_ms if isinstance(received_ms, int) else 0)
