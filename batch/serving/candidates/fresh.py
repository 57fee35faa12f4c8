"""New pings, so that what nobody has seen yet gets its chance."""

from batch.serving.candidates.pool import Pool, Rows, UserProfile


def offer(pool: Pool, taste: UserProfile) -> Rows:  # noqa: ARG001 - every source has one signature
    """Rows, newest first; the same for everyone."""
    return pool.lists["fresh"]
