"""From a URL to an adapter: the one table, and the only place that imports adapters.

Each deployable's own `wiring.py` calls these for the ports that it needs; an adapter's module is imported only when a
URL chooses it. To add a backend: its file, a line here, its scheme in `settings.SCHEMES` (docs/adding-an-adapter.md).
"""

import importlib
from collections.abc import Mapping
from typing import Any, Final, cast
from urllib.parse import urlsplit

from pingfeed.errors import InvalidInput, SettingsError
from pingfeed.ports import Artifacts, CandidateStore, EventSink, Lake, Trending, UserSignals
from pingfeed.settings import PREFIX, Settings

ADAPTERS: Final[Mapping[str, Mapping[str, str]]] = {
    "lake_url": {"file": "lake_file:FileLake", "s3": "lake_s3:S3Lake"},
    "artifacts_url": {"file": "artifacts_file:FileArtifacts", "s3": "artifacts_s3:S3Artifacts"},
    "events_url": {"disk": "event_sink_disk:DiskEventSink"},
    "candidates_url": {"sqlite": "candidates_sqlite:SqliteCandidateStore"},
    "signals_url": {"sqlite": "user_signals_sqlite:SqliteUserSignals"},
    "trending_url": {"sqlite": "trending_sqlite:SqliteTrending"},
}
"""Setting -> URL scheme -> `module:Class` in `pingfeed.adapters`; the class takes the URL."""


def _open(setting: str, settings: Settings, url_of: str | None = None) -> Any:
    """The adapter of a port (named by its setting) at that setting's URL, or at another one's (`url_of`)."""
    url = getattr(settings, url_of or setting)
    module, _, name = ADAPTERS[setting][urlsplit(url).scheme].partition(":")
    adapter = getattr(importlib.import_module(f"pingfeed.adapters.{module}"), name)
    try:
        return adapter(url)
    except InvalidInput as error:
        variable = PREFIX + (url_of or setting).upper()
        raise SettingsError(f"{variable} {error.message}", field=variable) from error


def open_lake(settings: Settings) -> Lake:
    """The lake that the settings choose."""
    return cast(Lake, _open("lake_url", settings))


def open_lake_objects(settings: Settings) -> Artifacts:
    """The lake's place for a service that only puts files there: async, and without Arrow."""
    return cast(Artifacts, _open("artifacts_url", settings, url_of="lake_url"))


def open_artifacts(settings: Settings) -> Artifacts:
    """The artifacts that the settings choose."""
    return cast(Artifacts, _open("artifacts_url", settings))


def open_event_sink(settings: Settings) -> EventSink:
    """The event sink that the settings choose."""
    return cast(EventSink, _open("events_url", settings))


def open_candidates(settings: Settings) -> CandidateStore:
    """The candidate store that the settings choose."""
    return cast(CandidateStore, _open("candidates_url", settings))


def open_signals(settings: Settings) -> UserSignals:
    """The user signals that the settings choose."""
    return cast(UserSignals, _open("signals_url", settings))


def open_trending(settings: Settings) -> Trending:
    """The trending counters that the settings choose."""
    return cast(Trending, _open("trending_url", settings))
