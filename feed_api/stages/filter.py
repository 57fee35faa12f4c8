"""Remove candidates that the user must not get; every removal keeps its reason."""

from collections.abc import Container
from dataclasses import dataclass

from feed_api.candidates import Pool
from feed_api.state import FeedState, Reason, Removed
from pingfeed.core.signals import Session


@dataclass(frozen=True)
class Exclusions:
    """What one user must not get: ping ids by reason, blocked creators, and rows that the batch side excluded."""

    user_id: str
    deleted: Container[str]
    hidden: Container[str]
    blocked: Container[str]
    session: Session
    served: Container[str]
    now_ms: int
    forbidden_rows: Container[int]
    seen_rows: Container[int]

    def reason(self, row: int, ping_id: str, creator_id: str) -> Reason | None:
        """Why the ping is excluded, the strongest reason first; None if it is not."""
        if ping_id in self.deleted:
            return "deleted"
        if ping_id in self.hidden or row in self.forbidden_rows:
            return "hidden"
        if creator_id in self.blocked:
            return "blocked"
        if creator_id == self.user_id:
            return "own"
        if row in self.seen_rows or self.session.has_seen(ping_id, self.now_ms):
            return "seen"
        return "served" if ping_id in self.served else None

    def split(self, pool: Pool) -> tuple[Pool, list[Removed]]:
        """The candidates to keep, and those to remove."""
        reasons = list(map(self.reason, pool.rows.tolist(), pool.ping_ids, pool.creator_ids))
        if not any(reasons):
            return pool, []
        kept = pool.take([at for at, reason in enumerate(reasons) if reason is None])
        return kept, [Removed(id_, reason) for id_, reason in zip(pool.ping_ids, reasons, strict=True) if reason]


def exclusions(state: FeedState) -> Exclusions:
    """The exclusions from signals and packet, for every source; a hidden ping's reason stands for a blocked creator's
    where only the packet knows it. Own pings are excluded without either."""
    recent = state.recent
    deleted = state.signals.deleted if state.signals else frozenset[str]()
    request = state.request
    acts = recent.hides, recent.blocks, recent.session, _served(state), request.now_ms
    return Exclusions(request.user_id, deleted, *acts, state.forbidden, state.seen)


def _served(state: FeedState) -> frozenset[str]:
    """The pings of the chain's earlier pages. On a new first page, served but unseen pings may come again."""
    if state.request.chain is None:
        return frozenset()
    pages = (served.pings for served in state.recent.session.served if served.at_ms >= state.request.began_ms)
    return frozenset().union(*pages)


def filter_candidates(state: FeedState) -> None:
    """Remove excluded candidates from `pool`."""
    state.pool, removed = exclusions(state).split(state.pool)
    state.removed += removed
