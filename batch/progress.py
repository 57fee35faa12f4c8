"""Progress of long work for a person: one line a step with its duration; silent for machine-readable output."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


class Progress:
    """Shows each step and its duration on standard error, so that results can be piped."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet)

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Show `what` while it runs and its duration when it has finished."""
        began = time.monotonic()
        with self._console.status(what):
            yield
        self._console.print(f"  {what}  [dim]{time.monotonic() - began:.1f} s[/dim]")

    def say(self, sentence: str) -> None:
        """Print one line."""
        self._console.print(sentence)
