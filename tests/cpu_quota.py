"""A share of one CPU for a process, as Lambda gives it by memory: 1,769 MB are one CPU.

A control group where this machine lets us make one (version 2, or 1), else SIGSTOP and SIGCONT in turns.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

FULL_MB: Final = 1769
PERIOD_US: Final = 20_000
_ROOTS: Final = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/cpu"))

Command = Sequence[str]


def share_of(memory_mb: int) -> float:
    """The CPUs of a function with this memory; more than one is not imitated."""
    return min(1.0, memory_mb / FULL_MB)


class Quota:
    """Runs the commands that `wrap` wraps within a share of a CPU; `how` names the mechanism.

    Call `follow` with each started process.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self._folder = _group(share) if share < 1 else None
        self.how = "all of a CPU" if share >= 1 else "a control group" if self._folder else "SIGSTOP in turns"
        self._stop = threading.Event()
        self.frozen = False
        """Whether the process stands still anyway."""

    def wrap(self, command: Command) -> list[str]:
        """The command, begun inside the group."""
        if self._folder is None:
            return list(command)
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self._folder / "cgroup.procs"), *command]

    def follow(self, pid: int) -> None:
        """Stop and continue the process in turns, where there is no group."""
        if self.how == "SIGSTOP in turns":
            threading.Thread(target=self._take_turns, args=(pid,), daemon=True).start()

    def close(self) -> None:
        """Remove the group, whose processes have ended."""
        self._stop.set()
        if self._folder is not None:
            with suppress(OSError):
                self._folder.rmdir()

    def _take_turns(self, pid: int) -> None:
        period_s = PERIOD_US / 1e6
        with suppress(ProcessLookupError):
            while not self._stop.is_set():
                if not self.frozen:
                    os.kill(pid, signal.SIGCONT)
                time.sleep(period_s * self.share)
                os.kill(pid, signal.SIGSTOP)
                time.sleep(period_s * (1 - self.share))


@contextmanager
def quota(memory_mb: int) -> Iterator[Quota]:
    """The CPU of a function with this memory."""
    made = Quota(share_of(memory_mb))
    try:
        yield made
    finally:
        made.close()


def _group(share: float) -> Path | None:
    """A new control group with this share, None where it cannot be made."""
    allowed = round(PERIOD_US * share)
    for root in _ROOTS:
        folder = root / f"pingfeed-test-{os.getpid()}-{time.monotonic_ns()}"
        with suppress(OSError):
            folder.mkdir()
            if (folder / "cpu.max").exists():
                (folder / "cpu.max").write_text(f"{allowed} {PERIOD_US}")
                return folder
            if (folder / "cpu.cfs_quota_us").exists():
                (folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (folder / "cpu.cfs_quota_us").write_text(str(allowed))
                return folder
        with suppress(OSError):
            folder.rmdir()
    return None


def cpu_s(pid: int) -> float:
    """The CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
