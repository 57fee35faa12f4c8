"""A process's copy of rows of the log (`acts_log.py`), in which a user's acts are found.

Rows stay as they are, and for each of their chunks there are 16 bytes: no object for a user or an act, so that tens of
thousands of chunks are taken in within milliseconds and cost little more than their bytes. To find a user is to look
through all CRCs, which is tens of microseconds for a full log.
"""

from bisect import bisect_right
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from pingfeed.local.acts_log import Entry, decode_chunks, layout


class Waiting:
    """Rows of the log, oldest first."""

    def __init__(self) -> None:
        self._seqs: list[int] = []
        self._rows: list[bytes] = []
        # Of each chunk, in columns: the user's CRC, its row's place in `_rows`, its start and its end there.
        self._chunks = np.empty((4, 0), np.uint32)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def take(self, seq: int, row: bytes) -> None:
        """Take in the next row."""
        crcs, bounds = layout(row)
        size = self._size + len(crcs)
        if size > self._chunks.shape[1]:
            grown = np.empty((4, 2 * size), np.uint32)
            grown[:, : self._size] = self._chunks[:, : self._size]
            self._chunks = grown
        new = self._chunks[:, self._size : size]
        new[0], new[1], new[2], new[3] = crcs, len(self._rows), bounds[:-1], bounds[1:]
        self._size = size
        self._rows.append(row)
        self._seqs.append(seq)

    def drop(self, folded_to: int) -> None:
        """Let go of the rows up to a `seq`."""
        rows = bisect_right(self._seqs, folded_to)
        if not rows:
            return
        first = np.searchsorted(self._chunks[1, : self._size], rows)
        self._chunks = self._chunks[:, first : self._size].copy()
        self._chunks[1] -= np.uint32(rows)
        self._size = self._chunks.shape[1]
        del self._rows[:rows], self._seqs[:rows]

    def of(self, user_id: str) -> list[Entry]:
        """The user's entries."""
        places = np.flatnonzero(self._chunks[0, : self._size] == crc32(user_id.encode()))
        return self.by_user(places).get(user_id, []) if len(places) else []

    def by_crc(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Every chunk's place, users of one CRC side by side, each in order; and where each CRC begins, and the end."""
        crcs = self._chunks[0, : self._size]
        places = np.argsort(crcs, kind="stable")
        begins = np.flatnonzero(np.diff(crcs[places], prepend=crcs[places[:1]] + np.uint32(1)))
        return places, np.append(begins, self._size)

    def by_user(self, places: NDArray[np.intp]) -> dict[str, list[Entry]]:
        """What the chunks at some places hold."""
        rows = self._rows
        chunks = [rows[row][start:end] for row, start, end in self._chunks[1:, places].T.tolist()]
        found: dict[str, list[Entry]] = {}
        for user_id, entries in decode_chunks(chunks):
            found.setdefault(user_id, []).extend(entries)
        return found
