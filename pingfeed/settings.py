"""Settings: read once from the environment at the edge, typed, frozen, checked together.

Every variable carries the prefix `PINGFEED_`. Without any, everything lives on this machine under `PINGFEED_HOME`
(`var/pingfeed`). A wrong value raises SettingsError, whose sentence names the variable.
"""

import re
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from pingfeed import settings_auth
from pingfeed.core.errors import SettingsError
from pingfeed.core.features import MAX_ATTRIBUTES, FeatureSet
from pingfeed.core.urls import flaw, masked, scheme_of
from pingfeed.settings_auth import is_loopback

PREFIX: Final = "PINGFEED_"
INGEST_PORT: Final = 8000
FEED_PORT: Final = 8001

SCHEMES: Final[Mapping[str, tuple[str, ...]]] = {
    "lake_url": ("file", "s3"),
    "artifacts_url": ("file", "s3"),
    "events_url": ("disk", "firehose"),
    "candidates_url": ("sqlite", "dynamodb"),
    "signals_url": ("sqlite", "redis", "rediss", "dynamodb"),
    "trending_url": ("sqlite", "redis", "rediss", "snapshot"),
    "cache_url": ("redis", "rediss"),
}
"""Which adapters there are for each port: the URL's scheme picks one (a `wiring.py` builds it)."""


@dataclass(frozen=True)
class Settings:
    """One installation's settings. URLs and paths are absolute; durations have their unit in the name."""

    home: Path
    lake_url: str
    artifacts_url: str
    events_url: str
    candidates_url: str
    signals_url: str
    trending_url: str
    spool_dir: Path
    cache_url: str = ""
    auth: Literal["none", "api_key", "jwt"] = "none"
    allow_open: bool = False
    api_key_hashes: tuple[str, ...] = ()
    operator_key_hashes: tuple[str, ...] = ()
    jwt_jwks: str = ""
    jwt_secret: str = ""
    jwt_audience: str = ""
    jwt_issuer: str = ""
    jwt_algorithms: tuple[str, ...] = ()
    rate_limit: float = 0.0
    rate_burst: int = 0
    tick_minutes: int = 15
    night_hour: int = 3
    label_window_hours: int = 6
    feed_budget_ms: int = 50
    sink_flush_seconds: float = 10.0
    spool_max_mb: int = 1024
    raw_days: int = 400
    rejected_days: int = 30
    log_matrix_share: float = 0.02
    explore_share: float = 0.1
    facets: tuple[str, ...] = ("topics",)
    attributes: tuple[str, ...] = ()
    gate_tolerance: float = 0.01
    cors_origins: tuple[str, ...] = ()
    demo_page: bool = False
    demo_ingest_url: str = ""

    @property
    def tick_ms(self) -> int:
        """Length of a tick in milliseconds."""
        return self.tick_minutes * 60_000

    @property
    def features(self) -> FeatureSet:
        """The feature vector of this installation."""
        return FeatureSet(self.facets, self.attributes)


def _flag(text: str) -> bool:
    if text.lower() not in ("0", "1", "true", "false"):
        raise ValueError("must be 0 or 1")
    return text.lower() in ("1", "true")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _number(kind: Callable[[str], Any], low: float, high: float) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            what = "a whole number" if kind is int else "a number"
            raise ValueError(f"must be {what} from {low} to {high}")
        return value

    return parse


def _auth(text: str) -> str:
    if text not in ("none", "api_key", "jwt"):
        raise ValueError("must be none, api_key or jwt")
    return text


def _hashes(text: str) -> tuple[str, ...]:
    found = _names(text)
    if any(len(h) != 64 or set(h) - set("0123456789abcdef") for h in found):
        raise ValueError("must be SHA-256 digests, 64 lower-case hex digits each, separated by commas")
    return found


_ORIGIN: Final = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")


def _origin(text: str) -> str:
    """What a browser sends as `Origin`: scheme, host and port, nothing after."""
    if not _ORIGIN.fullmatch(text.lower()):
        raise ValueError("must be like https://app.example or http://127.0.0.1:8001, without a path")
    return text.lower()


def _origins(text: str) -> tuple[str, ...]:
    return tuple("*" if name == "*" else _origin(name) for name in _names(text))


def _origin_or_none(text: str) -> str:
    return _origin(text) if text else ""


_PARSERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "cache_url": str,
    "auth": _auth,
    "allow_open": _flag,
    "api_key_hashes": _hashes,
    "operator_key_hashes": _hashes,
    "jwt_secret": settings_auth.secret,
    "jwt_audience": str,
    "jwt_issuer": str,
    "jwt_algorithms": settings_auth.algorithms,
    "rate_limit": _number(float, 0, 1_000_000),
    "rate_burst": _number(int, 0, 1_000_000),
    "tick_minutes": _number(int, 1, 1440),
    "night_hour": _number(int, 0, 23),
    "label_window_hours": _number(int, 1, 168),
    "feed_budget_ms": _number(int, 1, 10_000),
    "sink_flush_seconds": _number(float, 0.05, 900),
    "spool_max_mb": _number(int, 1, 1_000_000),
    "raw_days": _number(int, 0, 36_500),
    "rejected_days": _number(int, 0, 36_500),
    "log_matrix_share": _number(float, 0, 1),
    "explore_share": _number(float, 0, 1),
    "facets": _names,
    "attributes": _names,
    "gate_tolerance": _number(float, 0, 1),
    "cors_origins": _origins,
    "demo_page": _flag,
    "demo_ingest_url": _origin_or_none,
}
_SECRET: Final = frozenset({"api_key_hashes", "operator_key_hashes", "jwt_secret"})


def load(environ: Mapping[str, str], *, cwd: Path | None = None) -> Settings:
    """The settings in an environment; SettingsError names the first variable that is wrong."""
    given = {name[len(PREFIX) :].lower(): value for name, value in environ.items() if name.startswith(PREFIX)}
    unknown = given.keys() - {field.name for field in fields(Settings)}
    if unknown:
        name = PREFIX + min(unknown).upper()
        raise SettingsError(f"{name} is not a setting of pingfeed", field=name)
    home = (cwd or Path.cwd()) / Path(given.pop("home", "var/pingfeed")).expanduser()
    values: dict[str, Any] = {"home": home, "spool_dir": home / "spool", **_urls(home)}
    for name, text in given.items():
        values[name] = _parse(name, text, home)
    values["jwt_algorithms"] = values.get("jwt_algorithms") or settings_auth.default_algorithms(
        values.get("jwt_jwks", ""), values.get("jwt_secret", "")
    )
    settings = Settings(**values)
    _check_together(settings)
    _check_same_place(settings, given.keys())
    return settings


def _urls(home: Path) -> dict[str, str]:
    """The embedded default of each port."""
    return {
        "lake_url": f"file://{home}/lake",
        "artifacts_url": f"file://{home}/artifacts",
        "events_url": f"disk://{home}/lake",
        "candidates_url": f"sqlite://{home}/candidates.sqlite",
        "signals_url": f"sqlite://{home}/signals.sqlite",
        "trending_url": f"sqlite://{home}/trending.sqlite",
    }


def _parse(name: str, text: str, home: Path) -> Any:
    variable = PREFIX + name.upper()
    if name == "spool_dir":
        return home / Path(text).expanduser()
    if name in SCHEMES and (text or name != "cache_url"):
        return _url(name, variable, text)
    try:
        return settings_auth.jwks_address(text, home) if name == "jwt_jwks" else _PARSERS[name](text)
    except ValueError as error:
        # The value is not quoted: what is wrong with it may be that it is a key meant for another variable.
        raise SettingsError(f"{variable} {error}", field=variable) from error


def _url(name: str, variable: str, text: str) -> str:
    scheme = scheme_of(text)
    if scheme not in SCHEMES[name]:
        known = ", ".join(f"{s}://" for s in SCHEMES[name])
        has = f"has the scheme {scheme!r}" if scheme else "is not a URL"
        raise SettingsError(f"{variable} {has}; known are {known}", field=variable)
    if wrong := flaw(text):
        raise SettingsError(f"{variable} {wrong}", field=variable)
    return text


def _check_together(settings: Settings) -> None:
    if settings.auth == "api_key" and not settings.api_key_hashes:
        name = f"{PREFIX}API_KEY_HASHES"
        raise SettingsError(f"{name} is empty while {PREFIX}AUTH is api_key", field=name)
    if settings.auth == "jwt":
        settings_auth.check(
            jwks=settings.jwt_jwks,
            secret=settings.jwt_secret,
            audience=settings.jwt_audience,
            issuer=settings.jwt_issuer,
            algorithms=settings.jwt_algorithms,
        )
    if len(settings.attributes) > MAX_ATTRIBUTES:
        name = f"{PREFIX}ATTRIBUTES"
        raise SettingsError(f"{name} names more than {MAX_ATTRIBUTES} attributes", field=name)
    if 1440 % settings.tick_minutes:
        name = f"{PREFIX}TICK_MINUTES"
        raise SettingsError(f"{name} must divide a day", field=name)


def _check_same_place(settings: Settings, given: Set[str]) -> None:
    """Events that go where no tick reads would be acknowledged and never seen again."""
    if scheme_of(settings.lake_url) == "s3" and "events_url" not in given:
        name, other, say = "EVENTS_URL", "LAKE_URL is on S3", "the stream that writes there, such as firehose://events"
    elif scheme_of(settings.events_url) == "firehose" and "lake_url" not in given:
        name, other, say = "LAKE_URL", "EVENTS_URL is a stream", "where it writes, such as s3://bucket/lake"
    else:
        return
    raise SettingsError(
        f"{PREFIX}{name} is not set while {PREFIX}{other}: events would go where no tick reads; name {say}",
        field=f"{PREFIX}{name}",
    )


def check_open(settings: Settings, host: str) -> None:
    """`none` serves on loopback only, unless PINGFEED_ALLOW_OPEN says that something else guards the door."""
    if settings.auth != "none" or settings.allow_open or is_loopback(host):
        return
    name = f"{PREFIX}AUTH"
    raise SettingsError(
        f"{name} is none, which may not listen on {host}; set api_key or jwt, or {PREFIX}ALLOW_OPEN=1", field=name
    )


def url_path(url: str) -> Path:
    """The path of a `file://`, `disk://` or `sqlite://` URL."""
    split = urlsplit(url)
    return Path(split.netloc + split.path)


def stream_of(url: str) -> str:
    """The stream's name in `firehose://stream`; SettingsError if it is none that the lake's readers can live with."""
    if wrong := flaw(url):
        raise SettingsError(f"{PREFIX}EVENTS_URL {wrong}", field=f"{PREFIX}EVENTS_URL")
    return urlsplit(url).netloc


def shown(settings: Settings) -> dict[str, str]:
    """Name and value of every setting, secrets masked, for logs and `doctor`."""
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return {PREFIX + name.upper(): _shown(name, value) for name, value in values.items()}


def _shown(name: str, value: Any) -> str:
    if name in _SECRET:
        return "(set)" if value else "(not set)"
    return masked(str(value)) if name in (*SCHEMES, "jwt_jwks") else str(value)
