"""A user's session in two items: what is written at every fold, and the older seen pings, written now and then.

    s/<user>/session    `d` a sealed `Acts` that replays to the session, with at most `RECENT` seen pings
                        `y` the version that the item of the older ones has at least
    s/<user>/seen       `d` a sealed `Acts` of at most `OLDER` seen pings, the newest

Both have `v`, a version that counts up, `i`, the id of the head that they belong to (others are ignored: the user was
forgotten), and `t`, `STATE_TTL_MS` after the latest act. Engagements, and wishes for more or less, are left out once
they are over.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec

from pingfeed.adapters._dynamodb.acts import Acts, see
from pingfeed.adapters._dynamodb.items import Item, version_of, versioned
from pingfeed.core.signals import MAX_SEEN, SEEN_MS, SESSION_MS, STATE_TTL_MS, Act, Session
from pingfeed.telemetry import nameless

RECENT: Final = 200
OLDER: Final = MAX_SEEN - 300
"""Together with the recent ones and those in the head, about `MAX_SEEN`."""
_log = logging.getLogger(__name__)


def session_key(user_id: str) -> str:
    """The key of the session's item."""
    return f"s/{user_id}/session"


def older_key(user_id: str) -> str:
    """The key of the item of older seen pings."""
    return f"s/{user_id}/seen"


@dataclass(frozen=True, slots=True)
class Copy:
    """What a process knows of both items. It must not be changed."""

    owner: bytes
    version: int = 0
    stored: int = 0
    """The version of the stored item, even if it belongs to another head."""
    recent: Session = field(default_factory=Session)
    """The session with the recent of the seen pings."""
    written_ms: int = 0
    needs: int = 0
    """The least version of the older seen pings that fits."""
    older: bytes | None = None
    """The older seen pings as they are stored, which takes a tenth of the memory; None if they were not read."""
    older_version: int = 0
    intact: bool = True

    @classmethod
    def of(cls, user_id: str, owner: bytes, item: Item | None) -> "Copy":
        """The session item's content."""
        if item is None or bytes(item["i"]["B"]) != owner:
            return cls(owner, stored=version_of(item))
        acts, intact = _acts_in(user_id, item)
        session, written_ms = acts.replay(Session(), acts.at_ms)
        version = version_of(item)
        return cls(owner, version, version, session, written_ms, int(item["y"]["N"]), intact=intact)

    def with_older(self, user_id: str, item: Item | None) -> "Copy":
        """With the content of the item of the older seen pings."""
        if item is None or bytes(item["i"]["B"]) != self.owner:
            return replace(self, older=b"")
        _, intact = _acts_in(user_id, item)
        older = bytes(item["d"]["B"]) if intact else b""
        return replace(self, older=older, older_version=version_of(item), intact=self.intact and intact)

    def with_older_of(self, held: "Copy | None") -> "Copy":
        """With the older seen pings of another copy, if there is one of the same head."""
        if held is None or held.owner != self.owner:
            return self
        return replace(self, older=held.older, older_version=held.older_version, intact=self.intact and held.intact)

    def fits(self, owner: bytes, version: int, *, again: bool = False) -> bool:
        """Whether both items are as new as a head says; TTL has removed one that is absent when read `again`."""
        recent = self.version >= version or (again and not self.stored)
        older = self.older_version >= self.needs or (again and not self.older_version)
        return self.owner == owner and recent and older and self.older is not None

    def session(self) -> Session:
        """The session with all seen pings; it may be changed."""
        session = self.recent.copy()
        if self.older:
            session.seen = Acts.decode("a user's seen pings", "", self.older).seen
            see(session.seen, self.recent.seen)
        return session


def session_item(user_id: str, copy: Copy, known: int) -> Item:
    """The item that stores the session of the copy in place of the stored one, whose version may be `known`."""
    acts = Acts(copy.written_ms, copy.recent.seen, list(acts_of(user_id, copy.recent, copy.written_ms)))
    expires_ms = copy.written_ms + STATE_TTL_MS
    version = copy.stored or known
    return versioned(session_key(user_id), copy.owner, version, acts.encode(), expires_ms, y=copy.needs)


def older_item(user_id: str, before: Item | None, copy: Copy) -> Item:
    """The item that stores the recent seen pings, beside those of `before`, in its place."""
    mine = before if before is not None and bytes(before["i"]["B"]) == copy.owner else None
    seen = _acts_in(user_id, mine)[0].seen if mine else {}
    see(seen, copy.recent.seen)
    newest_ms = max(seen.values(), default=0)
    kept = sorted((at_ms, key) for key, at_ms in seen.items() if at_ms > newest_ms - SEEN_MS)[-OLDER:]
    acts = Acts(newest_ms, {key: at_ms for at_ms, key in kept})
    version = version_of(before) or copy.needs
    return versioned(older_key(user_id), copy.owner, version, acts.encode(), newest_ms + STATE_TTL_MS)


def _acts_in(user_id: str, item: Item) -> tuple[Acts, bool]:
    """An item's content, and whether it was intact; what is damaged starts over."""
    try:
        return Acts.decode("a user's stored session", user_id, bytes(item["d"]["B"])), True
    except (ValueError, msgspec.DecodeError) as error:
        _log.error("a user's stored session is damaged", extra={"user": nameless(user_id), "reason": str(error)})
        return Acts(0), False


def acts_of(user_id: str, session: Session, written_ms: int) -> Iterator[Act]:
    """Acts that lead to the session, without its seen pings."""
    for ping, at_ms in session.unlikes.items():
        yield Act(user_id, "unlike", ping, at_ms)
    for entry in session.engaged:
        if entry.at_ms > written_ms - SESSION_MS:
            kind, liked_ms = ("like", entry.liked_ms) if entry.liked_ms else ("engaged", None)
            yield Act(user_id, kind, entry.ping, entry.at_ms, (), liked_ms)  # type: ignore[arg-type]
    for target, at_ms in session.steered.items():
        if abs(at_ms) > written_ms - SESSION_MS:
            yield Act(user_id, "more" if at_ms > 0 else "less", target, abs(at_ms))
    for served in session.served:
        yield Act(user_id, "served", served.request_id, served.at_ms, tuple(served.pings))
