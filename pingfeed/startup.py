"""Before a program starts to work: does every part that its settings name answer?

One that does not answer within `WITHIN_S` ends the start with a sentence that names the variable: a mistyped host is
found now and not in the middle of the night. Unless it has answered before, under the same address: then this is an
outage, not a mistake, and the program starts and does without it, for an ingest that comes back while the cache is down
shall take events again. Missing credentials and a missing library always end the start.

What has answered stands in `reached/<program>.json` of the home, by variable, passwords masked:

    {"PINGFEED_SIGNALS_URL": "redis://***@cache:6379/0"}
"""

import asyncio
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from pingfeed.adapters import registry
from pingfeed.core.errors import PingfeedError, SettingsError, Unavailable
from pingfeed.core.urls import masked
from pingfeed.ports import Lake
from pingfeed.settings import PREFIX, Settings

WITHIN_S: Final = 8.0
"""Long enough for parts that come up together, and for AWS's library to find that nobody gave it credentials."""
_PAUSE_S: Final = 0.25
_STEP_S: Final = 0.05
_log = logging.getLogger(__name__)


def check(settings: Settings, program: str, needs: Sequence[str], within_s: float = WITHIN_S) -> None:
    """Return once every part in `needs` (names of settings) answers, or the program may start without it.

    SettingsError, in a sentence with the variable's name, for the first that does not answer and never has.
    """
    reached = _Reached(settings.home / "reached" / f"{program}.json")
    needs = [name for name in needs if _is_used(settings, name)]
    failures = asyncio.run(_failures(settings, needs, within_s))
    for name in needs:
        address, failure = Address.of(settings, name), failures[name]
        if failure is None:
            reached.add(address)
        elif isinstance(failure, Unavailable) and address in reached:
            _log.warning("starts without a part", extra={"part": address.url, "reason": failure.message})
        else:
            raise _sentence(address, failure) from failure
    reached.save()


def _is_used(settings: Settings, name: str) -> bool:
    """There need not be a cache, nor keys at a URL; a file of keys is read when the app is made."""
    value = getattr(settings, name)
    return bool(value) and (name != "jwt_jwks" or (settings.auth == "jwt" and "://" in value))


@dataclass(frozen=True)
class Address:
    """A variable and the URL in it, the password masked."""

    variable: str
    url: str

    @classmethod
    def of(cls, settings: Settings, name: str) -> "Address":
        """The address that a setting names."""
        return cls(PREFIX + name.upper(), masked(getattr(settings, name)))


def _sentence(address: Address, failure: PingfeedError) -> SettingsError:
    named = failure.message.startswith(address.variable)
    message = failure.message if named else f"{address.variable} is {address.url}: {failure.message}"
    return SettingsError(message, field=address.variable)


async def _failures(settings: Settings, needs: Sequence[str], within_s: float) -> dict[str, PingfeedError | None]:
    patience = asyncio.create_task(_patience(within_s))
    try:
        found = await asyncio.gather(*(_failure(settings, name, patience, within_s) for name in needs))
    finally:
        patience.cancel()
    return dict(zip(needs, found, strict=True))


async def _patience(seconds: float) -> None:
    """Wait in small steps: what blocks the loop meanwhile (a library's import, a busy machine) costs one of them."""
    for _ in range(round(seconds / _STEP_S)):
        await asyncio.sleep(_STEP_S)


async def _failure(
    settings: Settings, name: str, patience: "asyncio.Task[None]", within_s: float
) -> PingfeedError | None:
    """Why a part does not answer before patience ends, in its own words where it gave any; None once it answers."""
    try:
        port = _opened(settings, name)
    except PingfeedError as error:
        return error
    last: PingfeedError | None = Unavailable(f"it did not answer within {within_s:g} s")
    try:
        while isinstance(last, Unavailable) and not patience.done():
            attempt = asyncio.create_task(_once(port))
            await asyncio.wait({attempt, patience}, return_when=asyncio.FIRST_COMPLETED)
            if not attempt.done():
                attempt.cancel()
                await asyncio.wait({attempt})
                break
            last = attempt.result()
            if last is not None:
                await asyncio.sleep(_PAUSE_S)
        return last
    finally:
        with suppress(PingfeedError):
            await port.close()


def _opened(settings: Settings, name: str) -> Any:
    """Something with `check` and `close`."""
    if name == "lake_url":
        return _LakeProbe(registry.open_lake(settings))
    if name == "cache_url":  # Of the two that it opens, the candidate store answers for itself.
        return registry.open_cache(settings)
    if name == "jwt_jwks":
        return _KeysProbe(settings)
    return registry.ASYNC_PORTS[name](settings)


async def _once(port: Any) -> PingfeedError | None:
    try:
        await port.check()
    except PingfeedError as error:
        return error
    return None


class _LakeProbe:
    """The lake as the asynchronous ports are: it answers if it says that a folder is empty which nobody makes."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    async def check(self) -> None:
        await asyncio.to_thread(self._lake.list, "reached")

    async def close(self) -> None:
        """Nothing is held."""


class _KeysProbe:
    """The keys of tokens as the asynchronous ports are: they answer if one of them is of use."""

    def __init__(self, settings: Settings) -> None:
        from pingfeed.web.jwks import source_of  # imports the cryptography library

        self._read = source_of(settings.jwt_jwks)
        self._algorithms = settings.jwt_algorithms

    async def check(self) -> None:
        from pingfeed.web.jwks import parse

        parse(await asyncio.to_thread(self._read), self._algorithms)

    async def close(self) -> None:
        """Nothing is held."""


class _Reached:
    """The file of addresses that have answered. One that cannot be read or written only means a stricter start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._urls = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
        except (OSError, msgspec.DecodeError):
            self._urls = {}

    def __contains__(self, address: Address) -> bool:
        return self._urls.get(address.variable) == address.url

    def add(self, address: Address) -> None:
        self._urls[address.variable] = address.url

    def save(self) -> None:
        hidden = self._path.with_name(f".{self._path.name}")
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            hidden.write_bytes(msgspec.json.encode(self._urls))
            os.replace(hidden, self._path)
