"""Stage: leave out what this user must not get; every removal keeps its reason."""

from collections.abc import Container
from dataclasses import dataclass

from feed_api.pool import Pool
from feed_api.state import FeedState, Reason, Removed


@dataclass(frozen=True)
class Filtered:
    """What a filter kept, and what it removed."""

    kept: Pool
    removed: list[Removed]


@dataclass(frozen=True)
class Exclusions:
    """What one user must not get: ping ids by reason, and creators."""

    user_id: str
    deleted: Container[str]
    hidden: Container[str]
    blocked: Container[str]
    seen: Container[str]
    served: Container[str]

    def reason(self, ping_id: str, creator_id: str) -> Reason | None:
        """Why the ping is left out, the gravest reason first; None if it is not."""
        if ping_id in self.deleted:
            return "deleted"
        if ping_id in self.hidden:
            return "hidden"
        if creator_id in self.blocked:
            return "blocked"
        if creator_id == self.user_id:
            return "own"
        if ping_id in self.seen:
            return "seen"
        return "served" if ping_id in self.served else None


def barrier(state: FeedState) -> Exclusions:
    """What the signals say; where they are missing, only the user's own pings are left out."""
    recent = state.recent
    deleted = state.signals.deleted if state.signals else frozenset[str]()
    return Exclusions(state.request.user_id, deleted, recent.hides, recent.blocks, recent.seen, _served(state))


def _served(state: FeedState) -> frozenset[str]:
    """What earlier pages of this chain showed. A first page has none: what was served but never seen may come again."""
    if state.request.chain is None:
        return frozenset()
    pages = (served.pings for served in state.recent.served if served.at_ms >= state.request.began_ms)
    return frozenset().union(*pages)


def filtered(pool: Pool, barred: Exclusions) -> Filtered:
    """The pool without what is barred."""
    reasons = list(map(barred.reason, pool.ping_ids, pool.creator_ids))
    if not any(reasons):
        return Filtered(pool, [])
    kept = pool.take([at for at, reason in enumerate(reasons) if reason is None])
    removed = [Removed(ping_id, reason) for ping_id, reason in zip(pool.ping_ids, reasons, strict=True) if reason]
    return Filtered(kept, removed)


def drop(state: FeedState) -> None:
    """Leave out of `pool` what the user must not get."""
    found = filtered(state.pool, barrier(state))
    state.pool = found.kept
    state.removed += found.removed
