"""Progress of long work: a line a step with its time, for a person; nothing where output is for a machine."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


class Progress:
    """Says what is being done and how long it took; on standard error, so that results can be piped."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet)

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Show `what` while it runs and its seconds when it is done."""
        began = time.monotonic()
        with self._console.status(what):
            yield
        self._console.print(f"  {what}  [dim]{time.monotonic() - began:.1f} s[/dim]")

    def say(self, sentence: str) -> None:
        """One line."""
        self._console.print(sentence)
