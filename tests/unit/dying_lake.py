"""A batch process that is killed at its n-th change of the lake, until it gets through.

Every n with PROVE_ROUNDS=full (`make prove`), every fifth otherwise.

for attempt in deaths(least=10, most=40):
    world = ...                     # afresh
    with attempt.in_lake(world.batch.tables):
        ...                         # the run
    if attempt.died:
        ...                         # what the next run must find and mend
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from batch.lake.tables import Tables
from tests.prove import rounds


class _Killed(Exception):
    pass


class _DyingLake:
    """The lake behind it (`ports.Lake`), until its process dies at a write or a delete."""

    def __init__(self, lake: Any, changes: int) -> None:
        self._lake, self._left = lake, changes

    def write(self, path: str, data: bytes) -> None:
        self._change(lambda: self._lake.write(path, data))

    def create(self, path: str, data: bytes) -> bool:
        return bool(self._change(lambda: self._lake.create(path, data)))

    def delete(self, path: str) -> None:
        self._change(lambda: self._lake.delete(path))

    def _change(self, make: Callable[[], Any]) -> Any:
        if not self._left:
            raise _Killed
        self._left -= 1
        return make()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lake, name)


class Attempt:
    """One run, which may make `changes` changes."""

    def __init__(self, changes: int) -> None:
        self.changes = changes
        self.died = True

    @contextmanager
    def in_lake(self, tables: Tables) -> Iterator[None]:
        lake = tables.versions._lake
        tables.versions._lake = _DyingLake(lake, self.changes)
        try:
            with suppress(_Killed):
                yield
                self.died = False
        finally:
            tables.versions._lake = lake
            tables.refresh()


def deaths(least: int, most: int) -> Iterator[Attempt]:
    """An attempt for each sampled change at which a run can die; the last one gets through."""
    step = 6 - rounds(1, 5)
    for changes in range(0, most + step, step):
        attempt = Attempt(changes)
        yield attempt
        if not attempt.died:
            assert changes >= least, f"the run made {changes} changes, {least} were to be seen"
            return
    raise AssertionError(f"the run makes more than {most} changes")
