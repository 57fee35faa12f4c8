"""Users' recent acts in a DynamoDB table.

    s/<user id>                   the head: the latest acts, at most one write unit (`_dynamodb/head.py`)
    s/<user id>/session, /seen    the session, folded now and then (`_dynamodb/session.py`)
    s/<user id>/<parts>.<part>    relations and profile, of users who have many (`_dynamodb/relations.py`)
    complete                      present once the lake's relations are in the table; `b` is when, in epoch ms

New acts are appended to the head without reading it: one write unit, whatever else is known of the user, and no writer
undoes another's acts. A full head is folded into the other items (`_dynamodb/fold.py`).

A read gets the head, and what else it needs, in one call, with the head of the deleted pings
(`_dynamodb/deleted.py`) and, through the shared loader, the packet. Reads are consistent: a hide takes effect in the
very next feed. A process keeps sessions and relations that it has read; the head tells which version holds. Only users
with relations in items of their own, or whose kept copy has become too old, need a second call.

If an item is damaged, its content is lost, later acts are not, and `complete` is False: for relations until they are
next rebuilt from the lake.
"""

import asyncio
import weakref
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from pingfeed.adapters._cache import Cache
from pingfeed.adapters._dynamodb.acts import lasts
from pingfeed.adapters._dynamodb.connection import Answer, SharedConnection, is_throttled
from pingfeed.adapters._dynamodb.deleted import DeletedList
from pingfeed.adapters._dynamodb.fold import Fold
from pingfeed.adapters._dynamodb.head import HEAD_BYTES, Head, appending, head_key
from pingfeed.adapters._dynamodb.items import Item, ttl
from pingfeed.adapters._dynamodb.relations import MAX_PARTS, Relations, decode, part_key, part_keys
from pingfeed.adapters._dynamodb.session import Copy, older_key, session_key
from pingfeed.aws import KEY, TTL, TableUrl
from pingfeed.core.clock import system_clock
from pingfeed.core.errors import FormatError, PingfeedError, Rebuilding, Unavailable
from pingfeed.core.retry import Backoff, until_true
from pingfeed.core.signals import INCOMPLETE, STATE_TTL_MS, Act, Session, Signals, UserState

USERS_AT_ONCE: Final = 32
TRIES: Final = 12
"""Attempts at one user's write against conflicts or throttling: a few seconds. After that the spool retries."""
READS: Final = 4
"""Attempts at reading items that other processes keep folding."""
_COMPLETE: Final = "complete"
_CACHE_BYTES: Final = 32 << 20
_ENTRY_BYTES: Final = 120
"""About the size of a seen ping or a relation in a copy."""


@dataclass(frozen=True, slots=True)
class _Decided:
    """A reader's copy of the relations, as a fold wrote them."""

    owner: bytes
    fold: int
    relations: Relations
    state: UserState
    intact: bool = True


class DynamodbUserSignals:
    """`dynamodb://table`."""

    def __init__(self, url: str, *, backoff: Backoff | None = None) -> None:
        self._table = TableUrl.parse(url).table
        self._backoff = backoff or Backoff(first_s=0.01, longest_s=0.5)
        self._dynamodb = SharedConnection()
        self._deleted = DeletedList(self._table, self._dynamodb, self._backoff)
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._places = asyncio.Semaphore(USERS_AT_ONCE)
        self._sessions: Cache[Copy] = Cache(_CACHE_BYTES)
        self._relations: Cache[_Decided] = Cache(_CACHE_BYTES)
        self._heads: Cache[Head] = Cache(_CACHE_BYTES)  # As they were read, until the next write.
        self._marked_ms: int | None = None

    async def apply(self, acts: Sequence[Act]) -> None:
        """If it raises, some users' acts may have been applied."""
        by_user: dict[str, list[Act]] = {}
        for act in acts:
            by_user.setdefault("" if act.kind == "deleted" else act.user_id, []).append(act)
        deletions = by_user.pop("", [])
        changes: list[Coroutine[Any, Any, None]] = [self._change(user_id, own) for user_id, own in by_user.items()]
        if deletions:
            changes.append(self._deleted.add(deletions))
        # Wait for all of them: a cancelled one would be neither done nor retried.
        for outcome in await asyncio.gather(*changes, return_exceptions=True):
            if outcome is not None:
                raise outcome

    async def read(self, user_id: str, now_ms: int) -> Signals:
        """The state belongs to the store: it must not be changed."""
        mark = self._get(_COMPLETE) if self._marked_ms is None else None
        held = self._sessions.get(user_id)
        keys = [head_key(user_id)] if held else _keys(user_id)
        *items, deleted_head = await asyncio.gather(*map(self._get, keys), self._deleted.head())
        self._note_mark(await mark if mark else None)
        head, copy, decided = await self._current(user_id, held, items)
        if head.damaged_ms and head.damaged_ms >= (self._marked_ms or 0):
            self._note_mark(await self._get(_COMPLETE))  # The relations may have been rebuilt since.
        complete = self._marked_ms is not None and (not head.damaged_ms or head.damaged_ms < self._marked_ms)
        intact = head.intact and copy.intact and decided.intact
        state = _state(user_id, head, copy, decided, now_ms)
        return Signals(state, await self._deleted.at(deleted_head, now_ms), complete and intact)

    async def forget(self, user_id: str) -> None:
        found = Head(user_id, None)
        with suppress(FormatError):
            found = Head.of(user_id, await self._get(head_key(user_id)))
        for key in await self._beside(user_id, found.parts):
            await self._dynamodb().delete(self._table, key)
        gone = await self._dynamodb().delete(self._table, head_key(user_id))
        with suppress(FormatError):  # A fold may have succeeded just before.
            found = Head.of(user_id, gone)
            for key in await self._beside(user_id, found.parts):
                await self._dynamodb().delete(self._table, key, owner=found.id)
        self._heads.drop(user_id)
        self._sessions.drop(user_id)
        self._relations.drop(user_id)

    async def _beside(self, user_id: str, parts: int) -> list[str]:
        """The keys of the items beside a head that knows of so many parts.

        A fold that was killed may have begun to move relations to more parts, or to remove those before.
        """
        counts = [1 << power for power in range(MAX_PARTS.bit_length())]
        keys = [older_key(user_id), session_key(user_id), *(part_key(user_id, count, 0) for count in counts)]
        found = await asyncio.gather(*map(self._get, keys))
        there = [key for key, item in zip(keys[:2], found, strict=False) if item]
        of_parts = {parts, *(count for count, item in zip(counts, found[2:], strict=True) if item)}
        return [key for count in of_parts for key in reversed(part_keys(user_id, count))] + there

    async def is_complete(self) -> bool:
        """Asks until the answer is yes: the mark does not go away while the process lives."""
        if self._marked_ms is None:
            self._note_mark(await self._get(_COMPLETE))
        return self._marked_ms is not None

    async def mark_complete(self) -> None:
        item = {KEY: {"S": _COMPLETE}, "b": {"N": str(system_clock())}}
        await self._dynamodb().call("put_item", self._table, TableName=self._table, Item=item)

    async def check(self) -> None:
        """Writes, and fetches the deletions that the first read would wait for."""
        item = {KEY: {"S": "check"}, TTL: ttl(system_clock())}
        await self._dynamodb().call("put_item", self._table, TableName=self._table, Item=item)
        try:
            await self._deleted.refresh()
        except FormatError as error:  # At start-up equivalent to being down: feeds are served without it.
            raise Unavailable(error.message) from error
        if not await self.is_complete():
            raise Rebuilding(INCOMPLETE)

    async def close(self) -> None:
        await self._deleted.close()
        await self._dynamodb.close()

    def _get(self, key: str) -> Answer:
        return self._dynamodb().get(self._table, key, consistent=True)

    def _note_mark(self, mark: Item | None) -> None:
        if mark is not None:
            self._marked_ms = int(mark["b"]["N"]) if "b" in mark else 0

    async def _current(
        self, user_id: str, held: Copy | None, items: Sequence[Item | None]
    ) -> tuple[Head, Copy, _Decided]:
        """The head, with a session and relations that are not older."""
        head, decided = Head.of(user_id, items[0]), None
        for attempt in range(READS):
            are_all = len(items) > 1
            if are_all:
                held = Copy.of(user_id, head.id, items[1]).with_older(user_id, items[2])
            if held is not None and held.fits(head.id, head.session, again=are_all and attempt > 0):
                decided, before = await self._decided(user_id, head), decided
                if decided.intact or before is not None:
                    if head.item is not None:
                        self._heads.put(user_id, head, 4 * HEAD_BYTES)
                        self._keep(user_id, held)
                    return head, held, decided
            elif held is not None and not attempt and not are_all:  # Folded since: usually only the session is new.
                held = Copy.of(user_id, head.id, await self._get(session_key(user_id))).with_older_of(held)
                continue
            items = await asyncio.gather(*map(self._get, _keys(user_id)))
            head = Head.of(user_id, items[0])
        # Another process folds again and again, or the items do not belong together.
        return head, replace(held or Copy(head.id), intact=False), decided or await self._decided(user_id, head)

    def _keep(self, user_id: str, copy: Copy) -> None:
        self._sessions.put(user_id, copy, _ENTRY_BYTES * (10 + len(copy.recent.seen)) + len(copy.older or b""))

    async def _decided(self, user_id: str, head: Head) -> _Decided:
        """The relations beside the head, those of the fold that wrote them last."""
        if not head.parts:
            return _Decided(head.id, 0, Relations(user_id, {}), UserState())
        held = self._relations.get(user_id)
        if held and (held.owner, held.fold) == (head.id, head.relations):
            return held
        found, intact = decode(head.id, await asyncio.gather(*map(self._get, part_keys(user_id, head.parts))))
        relations = Relations(user_id, found)
        decided = _Decided(head.id, head.relations, relations, relations.state(), intact)
        if intact:
            self._relations.put(user_id, decided, _ENTRY_BYTES * len(found))
        return decided

    async def _change(self, user_id: str, acts: Sequence[Act]) -> None:
        """Apply one user's acts to the user's state."""
        turn = self._turns.setdefault(user_id, asyncio.Lock())
        async with turn, self._places:
            done = await until_true(
                lambda last: self._try(user_id, acts, last=last), backoff=self._backoff, tries=TRIES
            )
        if not done:
            raise Unavailable(f"the DynamoDB table {self._table}: too many concurrent writes of one user's signals")

    async def _try(self, user_id: str, acts: Sequence[Act], *, last: bool) -> bool:
        """False if another process wrote in between or, except on the last attempt, the request was throttled."""
        try:
            return await self._write(user_id, acts)
        except PingfeedError as error:
            if last or not is_throttled(error):
                raise
            return False

    async def _write(self, user_id: str, acts: Sequence[Act]) -> bool:
        """Append acts to the head, or fold it."""
        head = self._heads.get(user_id)
        self._heads.drop(user_id)
        if request := appending(user_id, acts, head):
            answer = await self._dynamodb().attempt("update_item", self._table, **request)
            if answer is None:
                return await self._fold(user_id, acts, None)
            if not any(map(lasts, acts)):
                return True
            head, acts = Head.of(user_id, answer["Attributes"]), []
            if not head.is_full(head.lasting):
                return True
        return await self._fold(user_id, acts, head)

    async def _fold(self, user_id: str, acts: Sequence[Act], head: Head | None) -> bool:
        """Fold the head, which may be known."""
        fold, held = Fold(self._dynamodb(), self._table, user_id), self._sessions.get(user_id)
        done = await fold(acts, (head, held) if head and held and held.fits(head.id, head.session) else None)
        if fold.copy is not None:
            self._keep(user_id, fold.copy if fold.copy.older is not None else fold.copy.with_older_of(held))
        return done


def _keys(user_id: str) -> list[str]:
    return [head_key(user_id), session_key(user_id), older_key(user_id)]


def _state(user_id: str, head: Head, copy: Copy, decided: _Decided, now_ms: int) -> UserState:
    """The state in the items, with the acts in the head applied."""
    session, written_ms = copy.session(), copy.written_ms
    for entry in head.entries:
        session, written_ms = entry.replay(session, written_ms)
    state = decided.state
    if lasting := head.lasting:
        relations = Relations(user_id, decided.relations.held)
        relations.apply(lasting, limited=False)
        state = relations.state()
    return replace(state, session=session if written_ms > now_ms - STATE_TTL_MS else Session())
