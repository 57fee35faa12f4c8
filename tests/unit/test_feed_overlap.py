import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from feed_api.stages.overlap import overlap
from pingfeed.core.features import NO_VALUE, UInt32


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_two_pings_overlap_where_they_share_a_value(n: int, m: int, distinct: int, seed: int) -> None:
    rng = np.random.default_rng(seed)

    def facets(count: int) -> UInt32:
        values = rng.integers(0, distinct, (count, 8))
        return np.where(rng.random(values.shape) < 0.7, NO_VALUE, values).astype(np.uint32)

    left, right = facets(n), facets(m)
    found = overlap(left, right)
    assert found.shape == (n, m)
    for i in range(n):
        for j in range(m):
            assert found[i, j] == bool((set(left[i].tolist()) & set(right[j].tolist())) - {NO_VALUE})
