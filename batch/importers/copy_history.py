"""`pingfeed import history`: the history files of a lake in a folder, into the lake that the settings name.

`pingfeed simulate history` writes to a folder of this machine; so does an export of another installation.
"""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batch.importers.history import PREFIX
from pingfeed.arrow import EVENT_SCHEMA
from pingfeed.errors import InvalidInput, NotFound
from pingfeed.ports import Lake


@dataclass(frozen=True)
class Copied:
    """What a copy came to: files written, their bytes, and files that were there already."""

    files: int
    bytes: int
    there: int


def copy_history(lake: Lake, folder: Path) -> Copied:
    """Copy `folder/events/year=/month=/day=/history-*.parquet`; a file whose name is in the lake is not copied again.

    NotFound if the folder has none; InvalidInput for a file that is not Parquet of the event schema.
    """
    found = sorted(path for path in folder.glob(f"events/**/{PREFIX}*.parquet"))
    if not found:
        raise NotFound(f"{folder} has no events/**/{PREFIX}*.parquet")
    there = set(lake.list("events"))
    missing = {path.relative_to(folder).as_posix(): path for path in found}
    missing = {name: path for name, path in missing.items() if name not in there}
    size = 0
    for name, path in missing.items():
        _check(path)
        data = path.read_bytes()
        lake.write(name, data)
        size += len(data)
    return Copied(len(missing), size, len(found) - len(missing))


def _check(path: Path) -> None:
    try:
        columns = pq.read_schema(path).names
    except (OSError, pa.ArrowInvalid) as error:
        raise InvalidInput(f"{path} is not Parquet: {error}") from error
    strange = set(columns) - set(EVENT_SCHEMA.names)
    if strange or "received_ms" not in columns:
        raise InvalidInput(f"{path} does not hold events: {', '.join(sorted(strange)) or 'it has no received_ms'}")
