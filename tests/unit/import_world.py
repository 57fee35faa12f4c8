"""Logs written for a test, imported into a lake of its own at times that the test sets."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from batch.importers.csv_format import CsvFormat
from batch.importers.csv_mapping import event_types, field_map
from batch.importers.formats import Format, Source
from batch.importers.importer import Importer, Placing
from batch.importers.report import Outcome
from batch.ticks import day_number
from pingfeed.core.arrow import EVENT_SCHEMA
from tests.unit.lakes import LakeWorld

BASIC = "user_id=user,ping_id=item,event_type=action,timestamp=at"
NOW_MS = 1_795_348_800_000 + 60_000
"""2026-11-22, a minute past noon: the last tick before now began at 11:45 and ended at noon."""
END_MS = 1_795_348_800_000 - 1


def csv_log(mapping: str = BASIC, events: str = "", **options: Any) -> CsvFormat:
    """The format as the command makes it."""
    fields = field_map([mapping], ratings="rating_like" in options)
    return CsvFormat(fields, event_types([events]), **options)


def write(path: Path, lines: Iterable[str], end: str = "\n") -> Path:
    """A log with these lines."""
    path.write_bytes("".join(f"{line}{end}" for line in lines).encode())
    return path


def write_json(path: Path, events: Iterable[Mapping[str, Any] | str]) -> Path:
    """JSON lines; a text is written as it is."""
    return write(path, (one if isinstance(one, str) else json.dumps(one) for one in events))


def listed(number: int, at_ms: int, *items: str, user: str = "u1") -> dict[str, Any]:
    """A list that Metarank logged."""
    shown = [{"id": item, "fields": [{"name": "relevancy", "value": 0.0}]} for item in items]
    who = {"user": user, "session": user}
    return {"event": "ranking", "id": f"r{number}", "timestamp": str(at_ms), "items": shown, "fields": [], **who}


def click(number: int, at_ms: int, item: str, user: str | None = "u1", **more: Any) -> dict[str, Any]:
    """A click on an item of that list."""
    about = {"id": f"c{number}{item}", "ranking": f"r{number}", "item": item, "type": "click"}
    return {"event": "interaction", "timestamp": str(at_ms), "user": user, "session": user, **about, **more}


class ImportWorld(LakeWorld):
    """A lake that logs are imported into; at first it is a minute past noon."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.time.now_ms = NOW_MS

    def run(self, path: Path, form: Format, *, keep_dates: bool = True, **more: Any) -> Outcome:
        """Import a file, however many of its records are rejected."""
        stretch = {"stretch_ms": more.pop("stretch_ms")} if "stretch_ms" in more else {}
        placing = Placing(keep_dates, **stretch)
        return Importer(self.batch, Source(path), form).run(placing, **({"allow_rejected": True} | more))

    def raw(self) -> list[dict[str, Any]]:
        """The raw rows in the lake, without what they have not, by arrival and kind."""
        paths = self.batch.tables.lake.list("events")
        if not paths:
            return []
        table = self.batch.tables.lake.dataset(paths, EVENT_SCHEMA).to_table()
        rows = [{name: value for name, value in row.items() if value is not None} for row in table.to_pylist()]
        return sorted(rows, key=lambda row: (row["received_ms"], row["event_type"], row.get("position", 0)))

    def files(self) -> dict[str, bytes]:
        """Every file of the lake."""
        lake = self.batch.tables.lake
        return {path: lake.read(path) for path in lake.list("")}

    def rows_by_file(self) -> dict[str, list[dict[str, Any]]]:
        """The rows of each raw file."""
        lake = self.batch.tables.lake
        return {path: lake.dataset([path], EVENT_SCHEMA).to_table().to_pylist() for path in lake.list("events")}

    @staticmethod
    def day_of_file(path: str) -> int:
        """The day that a raw file's folder names, in days since 1970."""
        _, year, month, day, _ = path.split("/")
        return day_number("-".join(part.split("=")[1] for part in (year, month, day)))
