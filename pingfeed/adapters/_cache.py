"""A bounded cache of decoded values that a reader on the event loop and a writer thread share."""

import threading
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Cache(Generic[_T]):
    """The most recently used values whose sizes add up to `limit` bytes. For several threads."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._held: dict[str, tuple[int, _T]] = {}
        self._lock = threading.Lock()

    def get(self, key: str) -> _T | None:
        """The value, now the most recently used; None if it is not held."""
        with self._lock:
            found = self._held.pop(key, None)
            if found is None:
                return None
            self._held[key] = found
            return found[1]

    def put(self, key: str, value: _T, size: int) -> None:
        """Hold the value; the least recently used ones make room."""
        with self._lock:
            self._size += size - self._held.pop(key, (0, None))[0]
            self._held[key] = size, value
            while self._size > self._limit:
                self._size -= self._held.pop(next(iter(self._held)))[0]

    def drop(self, key: str) -> None:
        """Forget the value, if held."""
        with self._lock:
            self._size -= self._held.pop(key, (0, None))[0]
