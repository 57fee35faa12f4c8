"""Stage: the user's packet and signals, read together; what is late or down is left out and named."""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any, Final

from feed_api.state import FeedState, Part
from pingfeed.core.errors import PingfeedError
from pingfeed.core.packet import decode
from pingfeed.ports import CandidateStore, UserSignals
from pingfeed.telemetry import nameless

log = logging.getLogger(__name__)

SHARE: Final = 0.6
"""Of a request's budget that reading may take; the rest is for ranking (about a millisecond) and effects."""


async def fetch(state: FeedState, candidates: CandidateStore, signals: UserSignals) -> None:
    """Fill `packet`, `user` and `signals`."""
    user_id, now_ms = state.request.user_id, state.request.now_ms
    reads: dict[Part, asyncio.Future[Any]] = {
        "candidates": _begin(candidates.get(user_id, now_ms)),
        "signals": _begin(signals.read(user_id, now_ms)),
    }
    await asyncio.wait(reads.values(), timeout=state.deadline.left_s() * SHARE)
    data = _outcome(state, "candidates", reads["candidates"])
    state.signals = _outcome(state, "signals", reads["signals"])
    if data is not None:
        _unpack(state, data)


def _begin(read: Awaitable[Any]) -> asyncio.Future[Any]:
    future = asyncio.ensure_future(read)
    future.add_done_callback(_settle)
    return future


def _settle(future: asyncio.Future[Any]) -> None:
    """Look at a late read's error, which nobody waits for any more."""
    if not future.cancelled():
        future.exception()


def _outcome(state: FeedState, part: Part, read: asyncio.Future[Any]) -> Any:
    """What was read; None and a word in `degraded` where it is late or failed."""
    if not read.done():
        read.cancel()
        state.degraded.add(part)
        return None
    try:
        return read.result()
    except PingfeedError as error:
        log.debug("%s left out: %s", part, error.message)
        state.degraded.add(part)
        return None


def _unpack(state: FeedState, data: bytes) -> None:
    """A packet of another feature digest keeps its candidates; an unreadable one is as good as none."""
    try:
        state.packet = decode(data, state.features.digest)
    except PingfeedError as error:
        log.warning("a packet was left out: %s", error.message, extra={"user": nameless(state.request.user_id)})
        state.degraded.add("candidates")
        return
    if state.packet.user is None:
        state.degraded.add("candidates")
    else:
        state.user = state.packet.user
