"""Fold a head: bring its acts, and new ones, into the other items, then empty it.

The other items are written first, each if its version is unchanged, the head last, if nothing was appended meanwhile.
Whatever fails in between, a kill included, the acts are still in the head and are folded again, which changes nothing:
acts are idempotent and ordered. A few decisions stay in the head, so that most users have no other item without TTL,
and a decision does not cost a write of its own.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from pingfeed.adapters._dynamodb import relations as parts_of
from pingfeed.adapters._dynamodb.acts import Acts, lasts
from pingfeed.adapters._dynamodb.connection import Answer, Connection
from pingfeed.adapters._dynamodb.head import Head, head_key
from pingfeed.adapters._dynamodb.items import Item, at_version, version_of, versioned
from pingfeed.adapters._dynamodb.relations import MAX_PARTS, PART_BYTES, Relations, part_key, part_keys
from pingfeed.adapters._dynamodb.session import RECENT, Copy, older_item, older_key, session_item, session_key
from pingfeed.aws import KEY
from pingfeed.core.clock import system_clock
from pingfeed.core.signals import Act, beyond_limit

KEPT_BYTES: Final = 300
"""Decisions up to this size stay in the head."""


class Fold:
    """One attempt for one user. Each step returns False if another process wrote meanwhile: try again."""

    def __init__(self, connection: Connection, table: str, user_id: str) -> None:
        self._connection, self._table, self._user_id = connection, table, user_id
        self._beyond = set[str]()
        self._created: list[Item] = []
        self.copy: Copy | None = None
        """What the session is after the fold."""

    async def __call__(self, acts: Sequence[Act], known: tuple[Head, Copy] | None = None) -> bool:
        """Fold the head and these acts; a head and session that are `known` are not read again."""
        head, copy = known or await self._read()
        done = await self._fold(head, copy, acts)
        if not done and self._created:
            await self._remove_orphans(head)
        return done

    async def _fold(self, head: Head, copy: Copy, acts: Sequence[Act]) -> bool:
        if head.item is None and not await self._begin(head):
            return False
        parts, lasting = head.parts, [*head.lasting, *filter(lasts, acts)]
        if not head.intact:
            head.damaged_ms = system_clock()
        if not head.is_full(lasting) and len(Acts.of(lasting).encode()) <= KEPT_BYTES:
            kept = lasting
        elif await self._relate(head, lasting):
            kept = []
        else:
            return False
        folded = await self._session(head, copy, acts)
        if folded is None:
            return False
        if await self._connection.attempt("put_item", self._table, **head.folded(kept, folded.written_ms)) is None:
            return False
        self.copy = folded
        beyond_limit.update(name.partition(":")[0] for name in self._beyond)
        if parts != head.parts:
            for key in reversed(part_keys(self._user_id, parts)):
                await self._connection.delete(self._table, key)
        return True

    async def _remove_orphans(self, head: Head) -> None:
        """Remove what this fold created if the user was forgotten meanwhile: `forget` has not seen it."""
        now = await self._get(head_key(self._user_id))
        if now is None or Head.of(self._user_id, now).id != head.id:
            for item in self._created:
                await self._connection.delete(self._table, item[KEY]["S"], owner=head.id)

    async def _read(self) -> tuple[Head, Copy]:
        item, stored = await asyncio.gather(self._get(head_key(self._user_id)), self._get(session_key(self._user_id)))
        head = Head.of(self._user_id, item)
        return head, Copy.of(self._user_id, head.id, stored)

    async def _begin(self, head: Head) -> bool:
        """Write a new head first, as the other items name it."""
        request = head.folded([], 0)
        head.item, head.folds = request["Item"], head.folds + 1
        return await self._connection.attempt("put_item", self._table, **request) is not None

    async def _may_replace(self, head: Head, *items: Item | None) -> bool:
        """Whether these items may be replaced: those of another head only while this head exists."""
        if all(item is None or bytes(item["i"]["B"]) == head.id for item in items):
            return True
        now = await self._get(head_key(self._user_id))
        return now is not None and Head.of(self._user_id, now).id == head.id

    async def _session(self, head: Head, copy: Copy, acts: Sequence[Act]) -> Copy | None:
        """Write session acts, with the seen pings beside them once there are many."""
        session, written_ms = copy.recent.copy(), copy.written_ms
        for entry in [*head.entries, Acts.of(acts)]:
            session, written_ms = entry.replay(session, written_ms)
        after = replace(copy, recent=session, written_ms=written_ms, intact=True)
        if len(session.seen) > RECENT:
            before = await self._get(older_key(self._user_id))
            older = older_item(self._user_id, before, after)
            if not await self._may_replace(head, before) or not await self._replace(before, older):
                return None
            session.seen = {}
            after = replace(after, needs=version_of(older)).with_older(self._user_id, older)
        unchanged = (session, written_ms, after.needs) == (copy.recent, copy.written_ms, copy.needs)
        if not copy.version or not copy.intact or not unchanged:
            item = session_item(self._user_id, after, head.session)
            before = at_version(copy.stored)
            if not (copy.version or await self._may_replace(head, before)) or not await self._replace(before, item):
                return None
            after = replace(after, version=version_of(item), stored=version_of(item))
        head.session = after.version
        return after

    async def _relate(self, head: Head, lasting: Sequence[Act]) -> bool:
        """Write decisions, in more parts than before if one has become too large."""
        before = await asyncio.gather(*map(self._get, part_keys(self._user_id, head.parts)))
        held, intact = parts_of.decode(head.id, before)
        found = Relations(self._user_id, held)
        self._beyond = found.apply(lasting, limited=True)
        parts = max(1, head.parts)
        while max(map(len, data := found.encode(parts))) > PART_BYTES and parts < MAX_PARTS:
            parts *= 2
        if parts != head.parts:
            before = await asyncio.gather(*map(self._get, part_keys(self._user_id, parts)))
            found.merge(parts_of.decode(head.id, before)[0])  # Another process may have written these parts first.
            data = found.encode(parts)
        if not await self._may_replace(head, *before):
            return False
        head.parts, head.counts, head.relations = parts, found.counts(), head.folds + 1
        if not intact:
            head.damaged_ms = system_clock()
        for part, (old, new) in enumerate(zip(before, data, strict=True)):
            if old is None or (bytes(old["i"]["B"]), bytes(old["d"]["B"])) != (head.id, new):
                item = versioned(part_key(self._user_id, parts, part), head.id, version_of(old), new)
                if not await self._replace(old, item):
                    return False
        return True

    def _get(self, key: str) -> Answer:
        return self._connection.get(self._table, key, consistent=True)

    async def _replace(self, before: Item | None, after: Item) -> bool:
        done = await self._connection.replace(self._table, before, after, by="v")
        if done and before is None:
            self._created.append(after)
        return done
