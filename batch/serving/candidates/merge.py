"""From what the sources offer to at most 400 rows a user: by quota, each row once, with the bits of its sources."""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from batch.serving.candidates.pool import Rows
from pingfeed.core.features import SOURCES

QUOTAS: Final[Mapping[str, int]] = {
    "followed": 60,
    "engaged_creator": 60,
    "collaborative": 100,
    "topic": 80,
    "trending": 40,
    "evergreen": 30,
    "fresh": 40,
}
FLOOR: Final = 4
"""How many of each source's first are kept whatever the ranker says: it must be able to learn that it was wrong."""


def merge(offers: Mapping[str, Rows], excluded: NDArray[np.bool_]) -> tuple[Rows, NDArray[np.uint8], NDArray[np.bool_]]:
    """Distinct rows ascending, their source bits, and which of them stay in any case."""
    bits = np.zeros(len(excluded), np.uint8)
    kept = np.zeros(len(excluded), bool)
    for name, rows in offers.items():
        allowed = rows[~excluded[rows]][: QUOTAS[name]]
        bits[allowed] |= np.uint8(1 << SOURCES.index(name))
        kept[allowed[:FLOOR]] = True
    rows = np.flatnonzero(bits)
    return rows, bits[rows], kept[rows]
