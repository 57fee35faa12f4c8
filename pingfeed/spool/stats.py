"""A spool's account in the lake, for the batch side's machines, which may not see the spool's directory.

    accounts/<spool_id>.json    the tally (`tally.py`), with "spooled": {"2026-11-22": 120}, what waits by day of
                                arrival, and "published_ms", as of when all that holds

In the background, at the start, now and then when something has changed, and at the end. An account is never removed:
that of a spool which is gone says what it had delivered, and what was lost with it.
"""

import asyncio
from pathlib import Path
from typing import Final

from pingfeed.core.clock import Clock, system_clock
from pingfeed.files import reading
from pingfeed.ports import Artifacts
from pingfeed.spool.checkpoint import FILE, Tally
from pingfeed.spool.landing import waiting_by_day
from pingfeed.spool.rounds import CLOSE_S, EVERY_S, Rounds

_LOOKS: Final = 5


class Account(Tally, frozen=True, kw_only=True):
    """What one spool has accepted: what it has delivered, and what waits in it."""

    spooled: dict[str, int] = {}
    published_ms: int = 0


def account_of(folder: Path, now_ms: int) -> Account | None:
    """The account of the spool in a directory as it is now; None where there is no tally. FormatError, Unavailable.

    The process that has the spool goes on meanwhile: a look during which something was delivered is repeated, so that
    no event counts on both sides or on none. A spool that is never still for so long counts some on both.
    """
    tally = _tally(folder / FILE)
    for _ in range(_LOOKS):
        if tally is None:
            return None
        spooled = waiting_by_day(folder).get(tally.spool_id, {})
        before, tally = tally, _tally(folder / FILE)
        if tally == before:
            break
    assert tally is not None, "a tally is replaced, never removed"
    return Account(
        spool_id=tally.spool_id,
        service=tally.service,
        settled_to=tally.settled_to,
        days=tally.days,
        spooled={day: events for day, events in spooled.items() if events},
        published_ms=now_ms,
    )


class Publisher:
    """Publishes the account of one spool's directory into a store. Owns the store: `close` closes it.

    publisher.start()
    await publisher.close()    # after the spool is closed, so that the last account says all
    """

    def __init__(
        self, folder: Path, store: Artifacts, *, every_s: float = EVERY_S, clock: Clock = system_clock
    ) -> None:
        self._folder, self._store, self._clock = folder, store, clock
        self._published: Account | None = None
        failed = "the spool's account was not published, it will be again"
        self._rounds = Rounds("publisher of the spool's account", self.publish, failed=failed, every_s=every_s)

    def start(self) -> None:
        """Begin, in a task of the running loop."""
        self._rounds.start()

    async def publish(self) -> None:
        """Put the account if it says anything new; raises what the store raises."""
        account = await asyncio.to_thread(account_of, self._folder, self._clock())
        if account is None or _same(account, self._published):
            return
        await self._store.put(f"accounts/{account.spool_id}.json", account.encode())
        self._published = account

    async def close(self, timeout_s: float = CLOSE_S) -> None:
        """Publish a last time, for at most `timeout_s`."""
        await self._rounds.close(timeout_s)
        await self._store.close()


def _tally(path: Path) -> Tally | None:
    if not path.exists():
        return None
    with reading(str(path)):
        return Tally.of(path.read_bytes(), str(path))


def _same(one: Account, other: Account | None) -> bool:
    return other is not None and (one.settled_to, one.days, one.spooled) == (
        other.settled_to,
        other.days,
        other.spooled,
    )
