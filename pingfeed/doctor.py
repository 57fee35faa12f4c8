"""What `pingfeed doctor` looks at: settings, stores, spools, what is live, packages, ports."""

import asyncio
import http.client
import importlib.util
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from pingfeed.adapters import registry
from pingfeed.core.clock import DAY_MS, HOUR_MS, Clock, system_clock
from pingfeed.core.errors import NotFound, PingfeedError, SettingsError
from pingfeed.core.ranker import Manifest, Pointer, model_key, pointer_key, snapshot_key
from pingfeed.core.urls import masked
from pingfeed.ports import Artifacts
from pingfeed.settings import FEED_PORT, INGEST_PORT, Settings, load
from pingfeed.spool.landing import wait_landed

_SERVICE: Final = ("fastapi", "fastapi_offline", "httptools", "prometheus_client", "uvicorn", "uvloop")
EXTRAS: Final[Mapping[str, tuple[str, ...]]] = {
    "ingest": (*_SERVICE, "pyarrow"),
    "feed": (*_SERVICE, "lightgbm"),
    "batch": ("duckdb", "lightgbm", "pyarrow", "scipy"),
    "simulator": ("httpx", "pyarrow"),
    "aws": ("aioboto3",),
    "redis": ("redis", "hiredis"),
}
"""What each extra of `pyproject.toml` brings, by import name."""

_PROBE_S: Final = 2


@dataclass(frozen=True)
class Check:
    """One finding; a check that is not `needed` may fail without the installation being broken."""

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
        _lake(settings),
        *(_port(name, settings) for name in registry.ASYNC_PORTS),
        *_cache(settings),
        *_spools(settings, clock()),
        *_live(settings, clock()),
        check_listener("ingest", INGEST_PORT),
        check_listener("feed", FEED_PORT),
    ]


def _packages() -> Iterator[Check]:
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        detail = f"missing: {', '.join(missing)}; install pingfeed[{extra}]" if missing else "installed"
        yield Check(f"packages of {extra}", not missing, detail, needed=False)


def _lake(settings: Settings) -> Check:
    def look() -> str:
        return f"{masked(settings.lake_url)}: {len(registry.open_lake(settings).list('events'))} files of events"

    return _tried("lake", look)


def _port(name: str, settings: Settings) -> Check:
    async def look() -> str:
        port = registry.ASYNC_PORTS[name](settings)
        try:
            await port.check()
        finally:
            await port.close()
        return f"{masked(getattr(settings, name))} answers"

    return _tried(name.removesuffix("_url"), lambda: asyncio.run(look()))


def _cache(settings: Settings) -> Iterator[Check]:
    """The cache of packets, where there is one; feeds are served without it."""
    if not settings.cache_url:
        return

    async def look() -> str:
        cache = registry.open_cache(settings)
        try:
            await cache.check()
        finally:
            await cache.close()
        return f"{masked(settings.cache_url)} answers"

    yield replace(_tried("cache", lambda: asyncio.run(look())), needed=False)


def _tried(name: str, look: Callable[[], str]) -> Check:
    """A check that is what `look` says, or the error that it raises."""
    try:
        return Check(name, True, look())
    except PingfeedError as error:
        return Check(name, False, error.message)
    except ImportError as error:
        return Check(name, False, f"{error.name} is not installed")


def _spools(settings: Settings, now_ms: int) -> Iterator[Check]:
    for service in ("ingest", "feed"):
        folder = settings.spool_dir / service

        def look() -> str:
            # Deep in the future and without patience: it counts what waits now.
            waiting = wait_landed(folder, now_ms + DAY_MS, 0)  # noqa: B023  # called before the loop goes on
            return f"{waiting:,} events wait for delivery"

        yield _tried(f"spool of {service}", look)


def _live(settings: Settings, now_ms: int) -> list[Check]:
    """What the pointers of this installation's feature digest name. Neither need be there for a feed to be served."""

    async def look() -> list[Check]:
        artifacts = registry.open_artifacts(settings)
        try:
            return [
                await _pointed("model", _model(artifacts, settings, now_ms), "none is live: the default ranker serves"),
                await _pointed(
                    "snapshot", _snapshot(artifacts, settings, now_ms), "none yet: `pingfeed tick` makes one"
                ),
            ]
        finally:
            await artifacts.close()

    try:
        return asyncio.run(look())
    except PingfeedError as error:
        return [Check("model", False, error.message), Check("snapshot", False, error.message)]


async def _pointed(name: str, look: Awaitable[str], absent: str) -> Check:
    try:
        return Check(name, True, await look)
    except NotFound:
        return Check(name, True, absent)
    except (PingfeedError, msgspec.DecodeError) as error:
        return Check(name, False, str(error))


async def _current(artifacts: Artifacts, settings: Settings, what: str) -> str:
    pointer = await artifacts.get(pointer_key(settings.features.digest, what))
    return msgspec.json.decode(pointer, type=Pointer).current


async def _model(artifacts: Artifacts, settings: Settings, now_ms: int) -> str:
    model_id = await _current(artifacts, settings, "model")
    manifest = msgspec.json.decode(await artifacts.get(model_key(model_id, "manifest.json")), type=Manifest)
    return f"{model_id}, trained {_age(now_ms - manifest.created_ms)} ago"


async def _snapshot(artifacts: Artifacts, settings: Settings, now_ms: int) -> str:
    folder = await _current(artifacts, settings, "snapshot")
    manifest = msgspec.json.decode(await artifacts.get(snapshot_key(folder, "manifest.json")))
    return f"tick {manifest['tick']}, {manifest['rows']:,} pings, made {_age(now_ms - manifest['created_ms'])} ago"


def _age(ms: int) -> str:
    for unit, name in ((DAY_MS, "d"), (HOUR_MS, "h"), (60_000, "min")):
        if ms >= 2 * unit:
            return f"{ms // unit} {name}"
    return f"{max(0, ms) // 1000} s"


def check_listener(service: str, port: int) -> Check:
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
    return Check(name, healthy, f"{service} answers" if healthy else "something else listens there")
