"""From a URL to an adapter: the one table, and the only place that imports adapters.

Each deployable's own `wiring.py` calls these for the ports that it needs; an adapter's module is imported only when a
URL chooses it. To add a backend: its file, a line here, its scheme in `settings.SCHEMES` (docs/adding-an-adapter.md).
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

from pingfeed.core.errors import InvalidInput, SettingsError
from pingfeed.ports import Artifacts, CandidateStore, EventSink, Lake, Lease, Trending, UserSignals
from pingfeed.settings import PREFIX, Settings

ADAPTERS: Final[Mapping[str, Mapping[str, str]]] = {
    "lake_url": {"file": "lake_file:FileLake", "s3": "lake_s3:S3Lake"},
    "artifacts_url": {"file": "artifacts_file:FileArtifacts", "s3": "artifacts_s3:S3Artifacts"},
    "events_url": {"disk": "event_sink_disk:DiskEventSink", "firehose": "event_sink_firehose:FirehoseEventSink"},
    "candidates_url": {
        "sqlite": "candidates_sqlite:SqliteCandidateStore",
        "dynamodb": "candidates_dynamodb:DynamodbCandidateStore",
    },
    "signals_url": {
        "sqlite": "user_signals_sqlite:SqliteUserSignals",
        "redis": "user_signals_redis:RedisUserSignals",
        "rediss": "user_signals_redis:RedisUserSignals",
        "dynamodb": "user_signals_dynamodb:DynamodbUserSignals",
    },
    "trending_url": {
        "sqlite": "trending_sqlite:SqliteTrending",
        "redis": "trending_redis:RedisTrending",
        "rediss": "trending_redis:RedisTrending",
        "snapshot": "trending_snapshot:SnapshotTrending",
    },
    "cache_url": {"redis": "candidates_redis:RedisCandidateStore", "rediss": "candidates_redis:RedisCandidateStore"},
    "lease_url": {"file": "lease_file:FileLease", "dynamodb": "lease_dynamodb:DynamodbLease"},
}
"""Setting -> URL scheme -> `module:Class` in `pingfeed.adapters`; the class takes the URL, a cache its store too."""


def _class_of(setting: str, scheme: str) -> Any:
    module, _, name = ADAPTERS[setting][scheme].partition(":")
    return getattr(importlib.import_module(f"pingfeed.adapters.{module}"), name)


def _open(
    setting: str, settings: Settings, *more: Any, url_of: str | None = None, limits: Mapping[str, Any] = {}
) -> Any:
    """The adapter of a port (named by its setting) at that setting's URL, or at another one's (`url_of`)."""
    url = getattr(settings, url_of or setting)
    scheme = urlsplit(url).scheme
    variable = PREFIX + (url_of or setting).upper()
    try:
        return _class_of(setting, scheme)(url, *more, **limits)
    except ModuleNotFoundError as error:
        sentence = f"{variable}: {scheme}:// needs {error.name}, which is not installed here"
        raise SettingsError(sentence, field=variable) from error
    # The adapter knows what is wrong with the URL, not which variable it came from.
    except InvalidInput as error:
        raise SettingsError(f"{variable} {error.message}", field=variable) from error
    except SettingsError as error:
        raise SettingsError(f"{variable}: {error.message}", field=error.field or variable) from error


def open_lake(settings: Settings) -> Lake:
    """The lake that the settings choose."""
    return cast(Lake, _open("lake_url", settings))


def open_lake_at(url: str) -> Lake:
    """The lake at a URL, `file://` or `s3://`, whatever the settings say."""
    return cast(Lake, _class_of("lake_url", urlsplit(url).scheme)(url))


def open_objects_at(url: str) -> Artifacts:
    """Files at an `s3://` URL, whatever the settings say."""
    return cast(Artifacts, _class_of("artifacts_url", "s3")(url))


def copy_sqlite(path: Path, to: Path) -> None:
    """A consistent copy of a SQLite store that services may be writing to."""
    from pingfeed.adapters._sqlite import copy_database

    copy_database(path, to)


def open_lake_objects(settings: Settings) -> Artifacts:
    """The lake's place for a service that only puts files there: async, and without Arrow."""
    return cast(Artifacts, _open("artifacts_url", settings, url_of="lake_url"))


def open_artifacts(settings: Settings) -> Artifacts:
    """The artifacts that the settings choose."""
    return cast(Artifacts, _open("artifacts_url", settings))


def open_event_sink(settings: Settings, **limits: Any) -> EventSink:
    """The event sink that the settings choose; `limits` are arguments of that sink's class."""
    return cast(EventSink, _open("events_url", settings, limits=limits))


def open_candidates(settings: Settings) -> CandidateStore:
    """The slot of the candidate store that the settings choose, behind a cache where they name one."""
    from pingfeed.adapters.candidates_slots import CachedSlots, CandidateSlots

    store = cast(CandidateStore, _open("candidates_url", settings))
    if not settings.cache_url:
        return CandidateSlots(store, settings.packet_slot)
    return CachedSlots(_open("cache_url", settings, store), settings.packet_slot)


def open_signals(settings: Settings) -> UserSignals:
    """The user signals that the settings choose."""
    return cast(UserSignals, _open("signals_url", settings))


def open_trending(settings: Settings) -> Trending:
    """The trending counters that the settings choose."""
    return cast(Trending, _open("trending_url", settings))


def open_lease(settings: Settings) -> Lease:
    """The lease that the settings choose."""
    return cast(Lease, _open("lease_url", settings))


def open_cache(settings: Settings) -> Any:
    """The cache alone, to check it; `open_candidates` opens it in front of the store."""
    try:
        from pingfeed.adapters._redis import RedisClient
    except ModuleNotFoundError as error:
        sentence = f"{PREFIX}CACHE_URL: redis:// needs {error.name}, which is not installed here"
        raise SettingsError(sentence, field=f"{PREFIX}CACHE_URL") from error
    return RedisClient(settings.cache_url)
