"""What of a spool's files is no whole record: told once in the log, counted, and copied to `damaged/` for a person."""

import logging
from pathlib import Path
from typing import Final

from pingfeed.spool.disk import Disk
from pingfeed.spool.segment import Damage

FOLDER: Final = "damaged"
MAX_BYTES: Final = 64 << 20
_log = logging.getLogger(__name__)


class DamageLog:
    """One spool's damage; `found` is what this process came upon, by file name. For any thread, one at a time."""

    def __init__(self, directory: Path, disk: Disk) -> None:
        self._folder, self._disk = directory / FOLDER, disk
        self.found: list[tuple[str, Damage]] = []

    def set_aside(self, name: str, damage: Damage, data: bytes) -> bool:
        """Tell of damage in a file, unless that has been done, and copy its bytes; whether they are copied."""
        if (name, damage) in self.found:
            return True
        kept = not data or self._keep(f"{name}-{damage.start}", data)
        self.found.append((name, damage))
        _log.error(
            "the spool is damaged",
            extra={"file": name, "reason": damage.reason, "bytes": len(data), "set_aside": kept},
        )
        return kept

    def _keep(self, name: str, data: bytes) -> bool:
        """Copy bytes, while there is room; whether they are there."""
        try:
            self._disk.make_folder(self._folder)
            names = self._disk.names(self._folder)
            if name not in names:
                held = sum(len(self._disk.read(self._folder / one)) for one in names)
                if held + len(data) > MAX_BYTES:
                    return False
                self._disk.write_whole(self._folder / name, data)
        except OSError as error:
            _log.error("damaged bytes could not be set aside", extra={"file": name, "reason": str(error)})
            return False
        return True
