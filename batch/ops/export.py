"""Everything that an installation keeps about a user: the events in the lake, the relations and the profile.

Events come from the raw zone, which includes what no run has read yet, and from the clean one, which keeps what the raw
zone no longer has. Each is found once, by the rule of a run: an event id counts once in 7 days. What a run would remove
because the user was deleted is not found.
"""

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from batch.lake.raw_files import documents_of, each_events
from batch.lake.tombstones import DeletionRequests, Forgotten
from batch.wiring import Batch
from pingfeed.core.arrow import EVENT_SCHEMA
from pingfeed.core.clock import DAY_MS
from pingfeed.core.errors import NotFound
from pingfeed.core.signals import Targets, UserState

_DEDUPE_MS: Final = 7 * DAY_MS
_KEY: Final = ("event_id", "received_ms")
_TRIES: Final = 3


def find_events(batch: Batch, users: Iterable[str]) -> tuple[pa.Table, list[str]]:
    """The stored events of some users, copies included, and the files that could not be read. Raises Unavailable."""
    wanted, lake = pa.array(users, pa.string()), batch.tables.lake
    for attempt in range(1, _TRIES + 1):
        batch.tables.refresh()
        tables: list[pa.Table] = [EVENT_SCHEMA.empty_table()]
        unreadable: list[str] = []
        try:
            for found in each_events(
                lake, (path for root in ("events", "errors", "clean") for path in lake.list(root))
            ):
                tables.append(found.rows.filter(pc.is_in(found.rows["user_id"], value_set=wanted)))
                unreadable += found.left_out
            return pa.concat_tables(tables), unreadable
        except NotFound:  # The nightly job compacted a file that was listed a moment ago.
            if attempt == _TRIES:
                raise
    raise AssertionError("unreachable")


def export_user(batch: Batch, user_id: str) -> tuple[list[bytes], list[str]]:
    """A user's data as JSON documents, and the files that could not be read. Raises NotFound for an unknown user."""
    events, unreadable = find_events(batch, [user_id])
    requests = DeletionRequests(batch.tables.lake)
    kept = Forgotten([*requests.pending(), *requests.done_since()]).without(events, "received_ms")
    lines = list(_events(kept.filter(pc.equal(kept["user_id"], user_id)).sort_by("received_ms")))
    state = asyncio.run(_state(batch, user_id))
    if not lines and state == UserState():
        raise NotFound(f"user {user_id} is unknown: no event, no relation and no profile is stored")
    return [*lines, *_relations(user_id, state, kept), _profile(user_id, state)], unreadable


def _events(rows: pa.Table) -> Iterator[bytes]:
    taken: dict[str, int] = {}
    for event_id, at_ms, document in zip(*(rows[c].to_pylist() for c in _KEY), documents_of(rows), strict=True):
        if event_id not in taken or at_ms - taken[event_id] > _DEDUPE_MS:
            taken[event_id] = at_ms
            yield b'{"kind":"event",' + document[1:]


async def _state(batch: Batch, user_id: str) -> UserState:
    signals = batch.open_signals()
    try:
        return (await signals.read(user_id, batch.clock())).state
    finally:
        await signals.close()


def _relations(user_id: str, state: UserState, events: pa.Table) -> Iterator[bytes]:
    """What the user decided, and took back (no longer `active`)."""
    mentioned = list(_mentioned(events))
    left = {f"follow:{creator}" for creator in state.follows.keys() - state.following()}
    held = {f"follow:{creator}" for creator in state.following()}
    for relation, targets in (("block", state.blocks), ("hide", state.hides), ("mute", state.mutes)):
        known = (name.removeprefix(f"{relation}:") for name in mentioned if name.startswith(f"{relation}:"))
        held |= {f"{relation}:{target}" for target in _listed(targets, known)}
    for name in sorted(held | left | set(_listed(state.freed, mentioned))):
        relation, _, target = name.partition(":")
        yield _line("relation", user_id, relation=relation, target=target, active=name in held)


def _listed(targets: Targets, known: Iterable[str]) -> Iterable[str]:
    """The targets; of a store that cannot list them those that are known otherwise."""
    return targets if isinstance(targets, Iterable) else (target for target in known if target in targets)


def _mentioned(events: pa.Table) -> Iterator[str]:
    """Every relation that the events may have decided."""
    columns = (
        ("block:", "creator_id"),
        ("hide:", "ping_id"),
        ("mute:creator:", "creator_id"),
        ("mute:topic:", "topic"),
    )
    for prefix, column in columns:
        yield from (f"{prefix}{target}" for target in pc.unique(events[column].drop_null()).to_pylist())


def _profile(user_id: str, state: UserState) -> bytes:
    """What the user said of themselves, and did and was served lately. Seen pings are among the events."""
    said = {name: value for name, (_, value) in state.profile.values.items()}
    session = {"engaged": state.session.engaged, "served": state.session.served}
    return _line("profile", user_id, **said, **session)


def _line(kind: str, user_id: str, **values: Any) -> bytes:
    return msgspec.json.encode({"kind": kind, "user_id": user_id, **values})
