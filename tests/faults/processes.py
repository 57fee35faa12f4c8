"""What a process and a folder take, as the system says."""

from pathlib import Path

from tests.journeys.conftest import Running


def rss_mb(running: Running) -> float:
    """The memory that a service's process has resident, in MB."""
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def folder_mb(folder: Path) -> float:
    """The bytes in a folder's files, in MB; those that leave meanwhile do not count."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total / (1 << 20)
