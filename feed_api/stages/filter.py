"""Remove candidates that the user must not get; every removal keeps its reason.

Whatever proposes a ping (packet, follows, trending, refill, exploration, a short page), it passes these exclusions.
"""

from collections.abc import Container
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feed_api.candidates import PERSONAL, Candidates, Pool
from feed_api.state import FeedState, Reason, Removed
from pingfeed.core.signals import Session, Targets
from pingfeed.core.snapshot import Rows, Snapshot


@dataclass(frozen=True)
class Exclusions:
    """What one user must not get. A check costs the same however much is excluded."""

    user_id: str
    snapshot: Snapshot
    deleted: Container[str]
    hidden: Container[str]
    blocked: Container[str]
    muted: Targets
    session: Session
    served: Container[str]
    now_ms: int
    forbidden_rows: Container[int]
    seen_rows: Container[int]

    def reasons(self, pool: Pool) -> list[Reason | None]:
        """Why each candidate is excluded, the strongest reason first; None if it is not."""
        muted = self._muted(pool) if self.muted else [False] * len(pool)
        return list(map(self._reason, pool.rows.tolist(), pool.ping_ids, pool.creator_ids, muted))

    def split(self, pool: Pool) -> tuple[Pool, list[Removed]]:
        """The candidates to keep, and those to remove."""
        reasons = self.reasons(pool)
        if not any(reasons):
            return pool, []
        kept = pool.take([at for at, reason in enumerate(reasons) if reason is None])
        return kept, [Removed(id_, reason) for id_, reason in zip(pool.ping_ids, reasons, strict=True) if reason]

    def _reason(self, row: int, ping_id: str, creator_id: str, muted: bool) -> Reason | None:
        if ping_id in self.deleted:
            return "deleted"
        if ping_id in self.hidden or row in self.forbidden_rows:
            return "hidden"
        if creator_id in self.blocked:
            return "blocked"
        if muted:
            return "muted"
        if creator_id == self.user_id:
            return "own"
        if row in self.seen_rows or self.session.has_seen(ping_id, self.now_ms):
            return "seen"
        return "served" if ping_id in self.served else None

    def _muted(self, pool: Pool) -> list[bool]:
        """Whether the creator or one of the topics is muted."""
        topics, names = self.snapshot.topics[pool.rows], self.snapshot.topic_names
        known = (number for number in np.unique(topics).tolist() if number in names)
        muted = [number for number in known if f"topic:{names[number]}" in self.muted]
        by_topic = np.isin(topics, muted).max(axis=1).tolist()
        return [it or f"creator:{of}" in self.muted for it, of in zip(by_topic, pool.creator_ids, strict=True)]


def exclusions(state: FeedState) -> Exclusions:
    """The exclusions from signals and packet, for every source; a hidden ping's reason stands for a blocked creator's
    where only the packet knows it. Own pings are excluded without either."""
    recent, request = state.recent, state.request
    return Exclusions(
        request.user_id,
        state.snapshot,
        state.signals.deleted if state.signals else state.last_deleted,
        recent.hides,
        recent.blocks,
        recent.mutes,
        recent.session,
        frozenset().union(*served_before(state)),
        request.now_ms,
        state.forbidden,
        state.seen,
    )


def served_before(state: FeedState) -> list[list[str]]:
    """The pings of the chain's earlier pages. On a new first page, served but unseen pings may come again."""
    if state.request.chain is None:
        return []
    return [served.pings for served in state.recent.session.served if served.at_ms >= state.request.began_ms]


def readable(state: FeedState, rows: Rows) -> NDArray[np.bool_]:
    """Which rows the user can read: all if the user's language is unknown, else those in it and those without one."""
    own, languages = state.user.language, state.snapshot.language[rows]
    can_read: NDArray[np.bool_] = (languages == own) | (languages == 0) if own else np.ones(len(rows), np.bool_)
    return can_read


def suitable(state: FeedState, found: Candidates | Pool) -> NDArray[np.bool_]:
    """Which candidates the user can read, or gets from a creator that they follow or engage with."""
    suits: NDArray[np.bool_] = readable(state, found.rows) | (found.sources & PERSONAL != 0)
    return suits


def filter_candidates(state: FeedState) -> None:
    """Remove excluded candidates from `pool`; those in other languages go to `foreign`."""
    state.pool, state.removed = exclusions(state).split(state.pool)
    stays = suitable(state, state.pool)
    if not stays.all():
        state.foreign = state.pool.take(np.flatnonzero(~stays).tolist())
        state.pool = state.pool.take(np.flatnonzero(stays).tolist())
        state.removed += [Removed(ping_id, "language") for ping_id in state.foreign.ping_ids]
