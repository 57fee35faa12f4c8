"""Which pings can be in a feed as of a tick: those of the last 30 days and the evergreen, less the deleted."""

import numpy as np
from numpy.typing import NDArray

from batch.features.catalogue import Catalogue
from batch.features.point_in_time import PointInTime
from batch.ticks import Ticks

Int64 = NDArray[np.int64]
DAYS = 30


def servable(catalogue: Catalogue, point_in_time: PointInTime, ticks: Ticks, tick: int) -> Int64:
    """Their ping numbers, ascending. Only these get features: the rule that keeps the bill flat."""
    ping = catalogue.pings["ping"].to_numpy()
    created = catalogue.pings["created_tick"].to_numpy()
    young = created > tick - ticks.first_of(DAYS)
    evergreen = np.isin(ping, point_in_time.evergreen(ticks.day(tick)))
    deletions = catalogue.deletions
    deleted = deletions["ping"].to_numpy()[deletions["known_tick"].to_numpy() <= tick]
    keep = (created <= tick) & (young | evergreen) & ~np.isin(ping, deleted)
    return np.sort(ping[keep]).astype(np.int64)
