"""The user part of a packet, cut out of a block of many users."""

import numpy as np

from pingfeed.core.features import UInt32, UserBlock
from pingfeed.core.packet import UserPart


def user_part(users: UserBlock, at: int) -> UserPart:
    """What a packet holds of the block's user `at`."""
    creators = slice(*np.searchsorted(users.creator_keys, _bounds(at)))
    values = slice(*np.searchsorted(users.facet_keys, _bounds(at)))
    return UserPart(
        values=users.values[at],
        country=int(users.country[at]),
        language=int(users.language[at]),
        creators=_numbers(users.creator_keys[creators]),
        creator_affinity=users.creator_values[creators],
        facet_values=_numbers(users.facet_keys[values]),
        facet_affinity=users.facet_values[values],
    )


def _bounds(at: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array([at << 32, (at + 1) << 32], np.uint64)


def _numbers(keys: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> UInt32:
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.uint32)
