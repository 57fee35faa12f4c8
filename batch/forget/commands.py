"""`pingfeed forget`: what goes at once, and the note for the night."""

import argparse
import asyncio
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from batch.forget.tombstones import Tombstone, Tombstones, hash_of
from batch.wiring import Batch, build
from pingfeed import settings
from pingfeed.core.errors import InvalidInput
from pingfeed.core.events import Id
from pingfeed.spool.landing import waiting_by_day

_WHAT: Final = (
    "Removes packet and signals of these users at once. The next night (or `pingfeed etl` now) removes what they did "
    "from the lake: raw and refused events, clean events, their own sums and states, training rows. Totals of pings "
    "and creators stay. What a user published is content and stays too: delete it with `ping_deleted` events."
)


class Forgotten(msgspec.Struct, frozen=True):
    """What the command did."""

    users: int
    at_ms: int
    """Events received up to this moment are removed; who comes back later starts anew."""
    waiting: int
    """Events, of anybody, in the spools of this machine: a service that starts applies them to the signals again."""


def forget(parser: argparse.ArgumentParser) -> None:
    """`pingfeed forget`."""
    parser.description = _WHAT
    parser.add_argument("users", nargs="+", metavar="USER", help="ids of users; - reads them from standard input")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    parser.set_defaults(run=_forget)


def forget_users(batch: Batch, users: Sequence[str]) -> Forgotten:
    """Note the wish, then remove packets and signals. Again changes nothing more. Raises Unavailable: try again.

    The note comes first: a tick that is running looks for it after it has stored its packets.
    """
    at_ms = batch.clock()
    batch.tables.refresh()
    notes = Tombstones(batch.tables.lake)
    for user_id in users:
        # A run of the tick may still read the event; one by hand in the same tick counts it from the next.
        notes.add(Tombstone(hash=hash_of(user_id), at_ms=at_ms, tick=batch.ticks.of(at_ms) + 1))
    asyncio.run(_remove(batch, users))
    spooled = waiting_by_day(batch.settings.spool_dir).values()
    return Forgotten(len(users), at_ms, sum(sum(days.values()) for days in spooled))


async def _remove(batch: Batch, users: Iterable[str]) -> None:
    candidates, signals = batch.open_candidates(), batch.open_signals()
    try:
        for user_id in users:
            await candidates.delete(user_id)
            await signals.forget(user_id)
    finally:
        await candidates.close()
        await signals.close()


def _forget(options: argparse.Namespace) -> int:
    users = _users(options.users)
    done = forget_users(build(settings.load(os.environ), quiet=True), users)
    sentence = (
        f"{done.users:,} users: packets and signals are removed; the night, or `pingfeed etl` now, removes the rest"
    )
    if done.waiting:
        sentence += (
            f"\n{done.waiting:,} events wait in spools, and a service that starts may bring signals back from them: "
            "once they are delivered, run `pingfeed forget` again"
        )
    sys.stdout.write((msgspec.json.encode(done).decode() if options.json else sentence) + "\n")
    return 0


def _users(given: Iterable[str]) -> list[str]:
    """The ids, each once; InvalidInput before anything is done if one cannot be a user's."""
    words = (word for name in given for word in (sys.stdin.read().split() if name == "-" else [name]))
    users = list(dict.fromkeys(words))
    for user_id in users:
        try:
            msgspec.convert(user_id, Id)
        except msgspec.ValidationError as error:
            sentence = f"{user_id!r} is no user's id, 1 to 128 bytes of [A-Za-z0-9._:@-]; nobody was forgotten"
            raise InvalidInput(sentence, field="user_id") from error
    return users
