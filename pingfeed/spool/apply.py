"""Applying the signals of accepted rows: what a delivery is given, and what it does where that can never succeed."""

import logging
from collections.abc import Awaitable, Callable, Sequence

from pingfeed.core.errors import PingfeedError
from pingfeed.core.events import Row
from pingfeed.spool.counters import Counters

Apply = Callable[[Sequence[Row]], Awaitable[None]]
"""Takes the signals of accepted rows in (user signals, trending); raises Unavailable if that has to be tried again."""

_log = logging.getLogger(__name__)


class OrGiveUp:
    """An `Apply` that gives up what no second try can help, such as a state that this version cannot read."""

    def __init__(self, apply: Apply, counters: Counters) -> None:
        self._apply, self._counters = apply, counters

    async def __call__(self, rows: Sequence[Row]) -> None:
        """Apply rows, all but those of a user whose signals cannot be; raises what can be tried again."""
        try:
            await self._apply(rows)
        except PingfeedError as error:
            if error.retryable:
                raise
            await self._apart(rows)

    async def _apart(self, rows: Sequence[Row]) -> None:
        """Apply each user's rows by themselves; give up those that cannot be applied."""
        for user_id in dict.fromkeys(row.get("user_id") for row in rows):
            mine = [row for row in rows if row.get("user_id") == user_id]
            try:
                await self._apply(mine)
            except PingfeedError as error:
                if error.retryable:
                    raise
                self._counters.apply_given_up += len(mine)
                _log.error("signals cannot be applied and are given up", extra={"reason": error.message})
