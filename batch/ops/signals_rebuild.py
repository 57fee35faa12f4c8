"""`pingfeed signals rebuild`: bring users' relations and profiles from the lake back into the signals.

Decisions are merged by their order keys, so rebuilding never overwrites a newer one and may run beside the services.
A store that began anew (a lost disk, a flushed cache, a damaged file) is incomplete until this has run.
"""

import asyncio
import logging
from collections.abc import Sequence
from itertools import islice
from typing import Final

import msgspec

from batch.lake.tables import FORGOTTEN
from batch.lake.tombstones import every_deleted
from batch.ops.decisions import relations_of_lake
from batch.wiring import Batch
from pingfeed.core.acts import acts_of
from pingfeed.core.errors import Unavailable
from pingfeed.core.signals import Act
from pingfeed.ports import UserSignals
from pingfeed.telemetry import nameless

_AT_ONCE: Final = 5000
_CLOCK: Final = "received_ms"
_log = logging.getLogger(__name__)


class Rebuilt(msgspec.Struct, frozen=True):
    """How many decisions (follows, blocks, hides, mutes, profiles, and what took them back) were applied."""

    decisions: int
    users: int


def rebuild(batch: Batch) -> Rebuilt:
    """Apply every decision in the lake, then mark the store as complete. May be repeated. Raises Unavailable."""
    batch.tables.refresh()
    return asyncio.run(_rebuild(batch, only_if_incomplete=False))


def ensure(batch: Batch) -> None:
    """Rebuild the store unless it is complete. A store that is down is left for the next tick."""
    try:
        asyncio.run(_rebuild(batch, only_if_incomplete=True))
    except Unavailable as error:
        _log.warning("the signals could not be checked: %s", error.message)


async def _rebuild(batch: Batch, *, only_if_incomplete: bool) -> Rebuilt:
    signals = batch.open_signals()
    count, users = 0, set[str]()
    try:
        if only_if_incomplete and await signals.is_complete():
            return Rebuilt(0, 0)
        deleted = every_deleted(batch.tables.lake)
        found = (act for row in relations_of_lake(batch) for act in acts_of(row) if act.kind != "seen")
        with batch.progress.step("rebuilding the signals"):
            while acts := list(islice(found, _AT_ONCE)):
                await _apply(signals, acts)
                count += len(acts)
                users.update(act.user_id for act in acts)
            # Users deleted since it began: `pingfeed forget` removed only what the store had then.
            batch.tables.versions.refresh(FORGOTTEN)
            for user_id in every_deleted(batch.tables.lake).among(
                users - {*deleted.among(users, _CLOCK, 0)}, _CLOCK, 0
            ):
                await signals.forget(user_id)
            await signals.mark_complete()
    finally:
        await signals.close()
    return Rebuilt(count, len(users))


async def _apply(signals: UserSignals, acts: Sequence[Act]) -> None:
    """Apply acts. A user whose acts alone cannot be applied is left out; Unavailable if the store is down."""
    try:
        await signals.apply(acts)
    except Unavailable:
        by_user: dict[str, list[Act]] = {}
        for act in acts:
            by_user.setdefault(act.user_id, []).append(act)
        for user_id, own in by_user.items():
            try:
                await signals.apply(own)
            except Unavailable as error:
                await signals.is_complete()
                _log.error("signals not rebuilt: %s", error.message, extra={"user": nameless(user_id)})
