"""Checks of an installation: is each part that the settings name available, and if not, why?

`PARTS` has three uses. `pingfeed doctor` checks every part once and adds other findings. A starting program waits until
the parts that it needs respond (`wait_for_parts`). /readyz checks those that its service has opened (`problems`).
"""

import asyncio
import http.client
import importlib
import importlib.util
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec

from pingfeed.adapters import registry
from pingfeed.core.clock import DAY_MS, HOUR_MS, Clock, system_clock
from pingfeed.core.errors import NotFound, PingfeedError, Rebuilding, SettingsError, Unavailable
from pingfeed.core.integrity import UNREADABLE
from pingfeed.core.urls import masked
from pingfeed.settings import FEED_PORT, INGEST_PORT, PREFIX, Settings, load
from pingfeed.spool.stats import wait_landed

START_S: Final = 8.0
"""How long a start waits: parts may start together, and AWS's library takes seconds to find no credentials."""
READY_S: Final = 2.0
"""How long a part may take to answer before /readyz reports it as missing."""
_PAUSE_S: Final = 0.25
_PROBE_S: Final = 2
_log = logging.getLogger(__name__)

_SERVICE: Final = ("fastapi", "fastapi_offline", "httptools", "prometheus_client", "uvicorn", "uvloop")
EXTRAS: Final[Mapping[str, tuple[str, ...]]] = {
    "ingest": (*_SERVICE, "pyarrow"),
    "feed": (*_SERVICE, "lightgbm"),
    "batch": ("duckdb", "lightgbm", "pyarrow", "scipy"),
    "simulator": ("httpx", "pyarrow"),
    "aws": ("aioboto3",),
    "redis": ("redis", "hiredis"),
}
"""The modules that each extra of `pyproject.toml` installs."""


@dataclass(frozen=True)
class _Look:
    """A check in the shape of a port."""

    look: Callable[[], Awaitable[object]]

    async def check(self) -> None:
        await self.look()

    async def close(self) -> None:
        """Nothing to release."""


def _open_keys(settings: Settings) -> _Look:
    from pingfeed.web.jwks import parse, source_of  # needs a cryptography library

    read = source_of(settings.jwt_jwks)

    async def look() -> None:
        parse(await read(), settings.jwt_algorithms)

    return _Look(look)


PARTS: Final[Mapping[str, Callable[[Settings], Any]]] = {
    # "checks" is an absent folder.
    "lake_url": lambda settings: _Look(partial(asyncio.to_thread, registry.open_lake(settings).list, "checks")),
    "lease_url": lambda settings: _Look(partial(asyncio.to_thread, registry.open_lease(settings).holder)),
    "events_url": registry.open_event_sink,
    "artifacts_url": registry.open_artifacts,
    "candidates_url": registry.open_candidates,
    "cache_url": registry.open_cache,  # a candidate store that has one answers without it
    "signals_url": registry.open_signals,
    "trending_url": registry.open_trending,
    "jwt_jwks": _open_keys,
}
"""Opens the part that a setting names; each has `check`, which raises a PingfeedError, and `close`."""


async def problems(**checks: Callable[[], Awaitable[None]]) -> dict[str, str]:
    """Check all parts concurrently; returns why a part is unavailable, by name, for those that are."""
    failures = await asyncio.gather(*(_failure(check, READY_S) for check in checks.values()))
    return {name: failure.message for name, failure in zip(checks, failures, strict=True) if failure}


async def _failure(
    check: Callable[[], Awaitable[None]], within_s: float, *, again: bool = False
) -> PingfeedError | None:
    """Why a part does not respond, None if it does. With `again` it is retried until the time is up."""
    failure: PingfeedError = Unavailable(f"did not answer within {within_s:g} s")
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while True:
                try:
                    await check()
                    return None
                except PingfeedError as error:
                    failure = error
                if not (again and isinstance(failure, Unavailable)):
                    break
                await asyncio.sleep(_PAUSE_S)
    return failure


async def _ask(
    settings: Settings, names: Sequence[str], within_s: float, *, again: bool = False
) -> dict[str, PingfeedError | None]:
    """Open, check and close the parts that these settings name, concurrently."""

    async def one(part: Any) -> PingfeedError | None:
        if isinstance(part, PingfeedError):
            return part
        try:
            return await _failure(part.check, within_s, again=again)
        finally:
            with suppress(PingfeedError):
                await part.close()

    # Opening imports libraries and blocks, so it comes first and does not count against the time limit.
    opened = [_opened(settings, name) for name in names]
    return dict(zip(names, await asyncio.gather(*map(one, opened)), strict=True))


def _opened(settings: Settings, name: str) -> Any:
    try:
        return PARTS[name](settings)
    except PingfeedError as error:
        return error
    except ImportError as error:
        return SettingsError(f"{_variable(name)} needs {error.name}, which is not installed", field=_variable(name))


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _is_used(settings: Settings, name: str) -> bool:
    """A cache is optional; keys matter where tokens do."""
    return bool(getattr(settings, name)) and (name != "jwt_jwks" or settings.auth == "jwt")


def wait_for_parts(settings: Settings, program: str, needs: Sequence[str], within_s: float | None = None) -> None:
    """Return once every part in `needs` answers, or the program may start without it.

    SettingsError names the first variable whose part does not answer: a mistyped host is found at the start. But a part
    that answered this program before, at the same address, has an outage: the program starts without it, so that an
    ingest that restarts while the cache is down accepts events. `answered/<program>` in the home remembers a line per
    part, passwords masked. Missing credentials and libraries always end the start.
    """
    memory = settings.home / "answered" / program
    before: list[str] = []
    with suppress(OSError):
        before = memory.read_text(encoding="utf-8", errors="replace").splitlines()
    # A file of keys is read when the app is made.
    used = [name for name in needs if _is_used(settings, name) and "://" in getattr(settings, name)]
    failures = asyncio.run(_ask(settings, used, within_s or START_S, again=True))
    lines = {name: f"{_variable(name)} is {masked(getattr(settings, name))}" for name in used}
    for name, failure in failures.items():
        if isinstance(failure, Rebuilding) or (isinstance(failure, Unavailable) and lines[name] in before):
            _log.warning("starting without a part", extra={"part": lines[name], "reason": failure.message})
        elif failure is not None:
            named = failure.message.startswith(_variable(name))
            sentence = failure.message if named else f"{lines[name]}: {failure.message}"
            raise SettingsError(sentence, field=_variable(name)) from failure
    with suppress(OSError):  # It only makes the next start stricter.
        memory.parent.mkdir(parents=True, exist_ok=True)
        memory.write_text("".join(f"{line}\n" for line in lines.values()), encoding="utf-8")


@dataclass(frozen=True)
class Check:
    """One finding of `pingfeed doctor`; one that is not `needed` may fail without the installation being broken."""

    name: str
    ok: bool
    detail: str
    needed: bool = True


def examine(environ: Mapping[str, str], clock: Clock = system_clock) -> list[Check]:
    """Every check, in the order in which a user would fix what fails."""
    try:
        settings = load(environ)
    except SettingsError as error:
        return [Check("settings", False, error.message), *_packages()]
    return [
        Check("settings", True, f"valid; everything lives under {settings.home}"),
        *_packages(),
        *_parts(settings),
        *_drift(settings),
        *_spools(settings, clock()),
        *_live(settings, clock()),
        *_lake(settings, clock),
        check_port("ingest", INGEST_PORT),
        check_port("feed", FEED_PORT),
    ]


def _packages() -> Iterator[Check]:
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        detail = f"missing: {', '.join(missing)}; install pingfeed[{extra}]" if missing else "installed"
        yield Check(f"packages of {extra}", not missing, detail, needed=False)


def _parts(settings: Settings) -> Iterator[Check]:
    used = [name for name in PARTS if _is_used(settings, name)]
    for name, failure in asyncio.run(_ask(settings, used, START_S)).items():
        detail = failure.message if failure else f"{masked(getattr(settings, name))} answers"
        # What is being rebuilt heals by itself; a new installation is in that state until its first tick.
        ok = failure is None or isinstance(failure, Rebuilding)
        yield Check(name.removesuffix("_url"), ok, detail, needed=name != "cache_url")


def _drift(settings: Settings) -> Iterator[Check]:
    """How the AWS resources that the settings name differ, where the package that makes them is installed."""
    if any(importlib.util.find_spec(module) is None for module in ("deploy", "boto3")):
        return
    for url, seen, found in importlib.import_module("deploy.provision").drift(settings):
        yield Check(f"drift of {url}", seen and not found, found or "none", needed=seen)


def _spools(settings: Settings, now_ms: int) -> Iterator[Check]:
    workers = sorted(path.name for path in settings.spool_dir.glob("feed-*"))
    for service in ("ingest", "feed", *workers):
        try:
            # No wait and a time far ahead: this counts every event that is waiting now.
            waiting = wait_landed(settings.spool_dir / service, now_ms + DAY_MS, 0)
            yield Check(f"spool of {service}", True, f"undelivered events: {waiting:,}")
        except PingfeedError as error:
            yield Check(f"spool of {service}", False, error.message)


def _live(settings: Settings, now_ms: int) -> Iterator[Check]:
    """The model and the snapshot that are live. A feed is served without either."""
    from pingfeed.core.ranker import model_key, snapshot_key  # imports numpy

    snapshot = "tick {tick}, {rows:,} pings, made {age} ago"
    for what, key, text, absent in (
        ("model", model_key, "{model_id}, trained {age} ago", "none is live: the fallback ranker serves"),
        ("snapshot", snapshot_key, snapshot, "none yet: `pingfeed tick` makes one"),
    ):
        try:
            manifest = asyncio.run(_manifest(settings, what, key))
            yield Check(what, True, text.format(**manifest, age=_age(now_ms - manifest["created_ms"])))
        except NotFound:
            yield Check(what, True, absent)
        except (PingfeedError, *UNREADABLE, LookupError, TypeError, ValueError) as error:
            yield Check(what, False, str(error))


def _lake(settings: Settings, clock: Clock) -> Iterator[Check]:
    """What the batch side says of the lake, where it is installed; addressed by name, as every deployable."""
    if any(importlib.util.find_spec(module) is None for module in ("batch", *EXTRAS["batch"])):
        return
    try:
        for name, ok, detail in importlib.import_module("batch.ops.findings").examine(settings, clock):
            yield Check(name, ok, detail)
    except PingfeedError as error:
        yield Check("events", False, error.message)


async def _manifest(settings: Settings, what: str, key: Callable[[str, str], str]) -> dict[str, Any]:
    from pingfeed.core.ranker import Pointer, pointer_key

    artifacts = registry.open_artifacts(settings)
    try:
        found = await artifacts.get(pointer_key(settings.features.digest, what))
        current = msgspec.json.decode(found, type=Pointer).current
        return msgspec.json.decode(await artifacts.get(key(current, "manifest.json")), type=dict[str, Any])
    finally:
        await artifacts.close()


def _age(ms: int) -> str:
    for unit, name in ((DAY_MS, "d"), (HOUR_MS, "h"), (60_000, "min")):
        if ms >= 2 * unit:
            return f"{ms // unit} {name}"
    return f"{max(0, ms) // 1000} s"


def check_port(service: str, port: int) -> Check:
    """Whether a port of this machine is free for a service, or answers as one does."""
    name = f"port {port}"
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=_PROBE_S)) as connection:
        try:
            connection.request("GET", "/healthz")
            answer = connection.getresponse()
            healthy = answer.status == 200 and b'"ok"' in answer.read(100)
        except ConnectionRefusedError:
            return Check(name, True, f"free for {service}")
        except (OSError, http.client.HTTPException):
            healthy = False
    return Check(name, healthy, f"{service} answers" if healthy else "another program listens there")
