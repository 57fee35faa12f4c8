"""Read the user's packet and signals concurrently; a part that is late or down is marked as degraded."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from feed_api.state import FeedState, Part
from pingfeed.core.errors import PingfeedError
from pingfeed.core.features import language_code, place_code
from pingfeed.core.packet import decode
from pingfeed.core.retry import twice
from pingfeed.ports import CandidateStore, UserSignals
from pingfeed.telemetry import nameless

log = logging.getLogger(__name__)


async def fetch(state: FeedState, candidates: CandidateStore, signals: UserSignals, *, again: bool = False) -> None:
    """Fill `packet`, `signals` and `user`; with `again` a read that fails is repeated once."""
    user_id, now_ms = state.request.user_id, state.request.now_ms
    calls: dict[Part, Callable[[], Awaitable[Any]]] = {
        "candidates": lambda: candidates.get(user_id, now_ms),
        "signals": lambda: signals.read(user_id, now_ms),
    }
    reads = {part: _start(twice(call) if again else call()) for part, call in calls.items()}
    await asyncio.wait(reads.values(), timeout=state.deadline.read_s)
    data = _result(state, "candidates", reads["candidates"])
    state.signals = _result(state, "signals", reads["signals"])
    if state.signals and not state.signals.complete:
        state.degraded.add("signals")
    if data is not None:
        _unpack(state, data)
    _locate(state)


def _start(read: Awaitable[Any]) -> asyncio.Future[Any]:
    future = asyncio.ensure_future(read)
    future.add_done_callback(_retrieve_error)
    return future


def _retrieve_error(future: asyncio.Future[Any]) -> None:
    """Retrieve the error of a late read, so that asyncio does not report it as never retrieved."""
    if not future.cancelled():
        future.exception()


def _result(state: FeedState, part: Part, read: asyncio.Future[Any]) -> Any:
    """The result; None, with the part marked as degraded, if the read is late or failed."""
    if not read.done():
        read.cancel()
        state.degraded.add(part)
        return None
    try:
        return read.result()
    except PingfeedError as error:
        log.debug("serving without %s: %s", part, error.message)
    except Exception:  # whatever is stored, the feed is served
        log.exception("serving without %s", part)
    state.degraded.add(part)
    return None


def _unpack(state: FeedState, data: bytes) -> None:
    """A packet of another feature digest keeps its candidates; an unreadable packet counts as missing."""
    try:
        state.packet = decode(data, state.features.digest)
    except Exception as error:  # noqa: BLE001  # whatever is stored, the feed is served
        log.warning("ignoring an unreadable packet: %s", error, extra={"user": nameless(state.request.user_id)})
        state.degraded.add("candidates")
        return
    if state.packet.user is None:
        state.degraded.add("candidates")
    else:
        state.user = state.packet.user


def _locate(state: FeedState) -> None:
    """Country and language of the user: what `user_updated` said, else the packet, else the request's hints."""
    profile, request, user = state.recent.profile, state.request, state.user
    country = place_code(profile.get("country")) or user.country or place_code(request.country)
    language = language_code(profile.get("language")) or user.language or language_code(request.language)
    if (country, language) != (user.country, user.language):
        state.user = replace(user, country=country, language=language)
