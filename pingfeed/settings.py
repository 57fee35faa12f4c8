"""Settings: read once from the environment at the edge, typed, frozen, checked together.

Every variable has the prefix `PINGFEED_`. Without any, everything lives on this machine under `PINGFEED_HOME`. A wrong
value raises SettingsError with one sentence that names the variable and never quotes the value: it may be a secret.
`make settings-docs` generates `docs/settings.md` from the class below: the sentence, range and default of each setting.
"""

import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from pingfeed.core.errors import SettingsError
from pingfeed.core.feature_set import MAX_ATTRIBUTES, FeatureSet
from pingfeed.core.urls import flaw, is_loopback, masked, scheme_of
from pingfeed.home import DEFAULT

PREFIX: Final = "PINGFEED_"
ON_LAMBDA: Final = "AWS_LAMBDA_FUNCTION_NAME"
"""The variable that Lambda sets."""
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
    "lease_url": ("file", "dynamodb"),
}
"""The adapters of each port: the URL's scheme picks one (`pingfeed/adapters/registry.py` opens it)."""

KEY_ALGORITHMS: Final = tuple(f"{family}{bits}" for family in ("RS", "PS", "ES") for bits in (256, 384, 512))
SECRET_BYTES: Final[Mapping[str, int]] = {"HS256": 32, "HS384": 48, "HS512": 64}
"""The least size of a shared secret: that of the algorithm's digest (RFC 7518, section 3.2)."""

_KNOWN: Final = (*KEY_ALGORITHMS, *SECRET_BYTES)
_ORIGIN: Final = r"https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?"
_LIKE: Final = "must be like https://app.example or http://127.0.0.1:8001, without a path"

# A description is what an error says after the variable's name.
Names = tuple[str, ...]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="must be SHA-256 digests, 64 lower-case hex digits")]
Algorithm = Annotated[str, Meta(pattern=f"^({'|'.join(_KNOWN)})$", description=f"must be among {', '.join(_KNOWN)}")]
Origin = Annotated[str, Meta(pattern=rf"^({_ORIGIN})?$", description=_LIKE)]
Caller = Annotated[str, Meta(pattern=rf"^(\*|{_ORIGIN})$", description=_LIKE)]
Share = Annotated[float, Meta(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One installation's settings. URLs and paths are absolute; durations have their unit in the name.

    `HOME` in a default stands for the value of `PINGFEED_HOME`. Instances come from `load`.
    """

    # Where data lives
    home: Path = DEFAULT
    """Folder of everything below, relative to the working directory. Without it, commands follow `var/current-home`,
    which `pingfeed demo` writes."""
    lake_url: str = "file://HOME/lake"
    """Events and everything that the batch side derives from them; or `s3://bucket/prefix`."""
    events_url: str = "disk://HOME/lake"
    """Where the services deliver events, which the batch side reads as `events/` of the lake; or `firehose://stream`
    for Amazon Data Firehose."""
    artifacts_url: str = "file://HOME/artifacts"
    """Models, snapshots and pointers; or `s3://bucket/prefix`."""
    candidates_url: str = "sqlite://HOME/candidates.sqlite"
    """One packet per user; or `dynamodb://table`, where `?writes_per_second=3000` limits the rate of a tick."""
    packet_slot: Literal["a", "b"] = "a"
    """Which of two sets of packets the tick writes and the feed reads: a release with other features takes the set that
    the running one does not use (docs/aws.md)."""
    cache_url: str = ""
    """A Redis that keeps the packets of the 10,000 most recently active users in front of that store."""
    signals_url: str = "sqlite://HOME/signals.sqlite"
    """Users' recent actions; or `redis://host`, or `dynamodb://table` (the packets' table or another)."""
    trending_url: str = "sqlite://HOME/trending.sqlite"
    """What is trending; or `redis://host`, or `snapshot://` for what was trending at the last tick."""
    lease_url: str = "file://HOME/lease"
    """Lets one run of the batch side at a time write to the lake; or `dynamodb://table`, for machines that share no
    disk. Every machine that writes to a lake needs the same. If the lake is a folder, the default is `_lease` in it."""
    spool_dir: Path = Path("spool")
    """Folder of events that are accepted and not yet delivered; a relative path is below `HOME`."""

    # Who may call
    auth: Literal["none", "api_key", "jwt", "gateway_jwt"] = "none"
    """How callers authenticate: `none` (on loopback addresses only), `api_key`, `jwt`, or `gateway_jwt` (on Lambda: the
    JWT authorizer of an HTTP API has verified the token)."""
    allow_open: bool = False
    """Lets `none` listen on any address, for when something else protects the port."""
    api_key_hashes: tuple[Digest, ...] = ()
    """SHA-256 digests of the API keys that may call, in hex."""
    operator_key_hashes: tuple[Digest, ...] = ()
    """SHA-256 digests of the keys that may also use `explain` and `/metrics` from other machines."""
    operator_loopback: bool = True
    """Lets callers on this machine do what an operator key allows; switch it off if a proxy runs on this machine."""
    jwt_jwks: str = ""
    """The public keys that verify tokens: a file (below `HOME` if relative), an https URL, or `s3://bucket/key` for
    functions that reach no other server."""
    jwt_jwks_source: str = ""
    """The https URL from which the function `refresh_keys` copies the keys to that object."""
    jwt_secret: str = ""
    """A shared secret that verifies tokens, instead of public keys; at least 32 bytes."""
    jwt_audience: str = ""
    """The audience (`aud`) that a token must name."""
    jwt_issuer: str = ""
    """The issuer (`iss`) that a token must have."""
    jwt_algorithms: tuple[Algorithm, ...] = ()
    """The algorithms that may sign a token; by default `RS256,ES256` with public keys and `HS256` with a secret."""
    rate_limit: Annotated[float, Meta(ge=0, le=1_000_000)] = 0.0
    """Requests per second that each key or token's user may send on average; 0 for no limit."""
    rate_burst: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Requests that may come at once; 0 for what 10 seconds allow."""
    user_catalogue: bool = False
    """Lets a user's token publish pings (`ping_created`) whose `creator_id` is that user."""
    cors_origins: tuple[Caller, ...] = ()
    """Origins of web pages that may call, such as `https://app.example`; `*` for all."""

    root_path: Annotated[str, Meta(pattern="^(/[A-Za-z0-9._~-]+)*$", description="must be like /api")] = ""
    """Path prefix under which a proxy publishes the services, such as `/api`; paths without it work too."""

    # Feed
    feed_budget_ms: Annotated[int, Meta(ge=1, le=10_000)] = 50
    """Time budget of a feed request in milliseconds."""
    explore_share: Share = 0.1
    """Share of feed requests that may show a randomly chosen new ping."""
    log_matrix_share: Share = 0.02
    """Share of feed requests whose whole feature matrix is logged, for `pingfeed skew`."""
    demo_page: bool = False
    """Serves the demo page at `/` of the feed."""
    demo_ingest_url: Origin = ""
    """Where visitors of the demo page reach ingest; by default port 8000 of the page's host."""

    # Ticks and training
    tick_minutes: Annotated[int, Meta(ge=1, le=1440)] = 15
    """Length of a tick in minutes; must divide a day."""
    night_hour: Annotated[int, Meta(ge=0, le=23)] = 3
    """Hour (UTC) after which the nightly job runs."""
    label_window_hours: Annotated[int, Meta(ge=1, le=168)] = 6
    """Hours after a feed request during which its outcome is awaited before it is used for training."""
    gate_tolerance: Share = 0.01
    """How much lower than the live model's NDCG@10 a new model's may be (lower bound of the difference)."""
    facets: Names = ("topics",)
    """Named lists of a ping that get rates and affinities."""
    attributes: Annotated[Names, Meta(max_length=MAX_ATTRIBUTES, description=f"names more than {MAX_ATTRIBUTES}")] = ()
    """Named numbers of a ping that become features, 16 at most."""

    # Delivery and retention
    sink_flush_seconds: Annotated[float, Meta(ge=0.05, le=900)] = 10.0
    """Seconds that an accepted event may wait for its batch to be delivered."""
    spool_max_mb: Annotated[int, Meta(ge=1, le=1_000_000)] = 1024
    """MiB that one service's spool may hold while the sink is down; beyond it the service answers 503."""
    raw_days: Annotated[int, Meta(ge=0, le=36_500)] = 400
    """Days that raw events are kept; 0 keeps them for ever."""
    rejected_days: Annotated[int, Meta(ge=1, le=30)] = 30
    """Days that rejected and quarantined events are kept."""

    @property
    def tick_ms(self) -> int:
        """Length of a tick in milliseconds."""
        return self.tick_minutes * 60_000

    @property
    def features(self) -> FeatureSet:
        """The feature vector of this installation."""
        return FeatureSet(self.facets, self.attributes)


_SECRET: Final = frozenset({"api_key_hashes", "operator_key_hashes", "jwt_secret"})


def load(environ: Mapping[str, str], *, cwd: Path | None = None) -> Settings:
    """The settings in an environment; SettingsError names the first variable that is wrong."""
    given = {name[len(PREFIX) :].lower(): text for name, text in environ.items() if name.startswith(PREFIX)}
    _check_names(given)
    home = (cwd or Path.cwd()) / Path(given.pop("home", "") or Settings.home).expanduser()
    values = {name: _value(name, kind, given.get(name), home) for name, kind in kinds().items() if name != "home"}
    if "lease_url" not in given and scheme_of(values["lake_url"]) == "file":
        values["lease_url"] = values["lake_url"].rstrip("/") + "/_lease"
    if not values["jwt_algorithms"]:
        values["jwt_algorithms"] = default_algorithms(values["jwt_jwks"], values["jwt_secret"])
    settings = Settings(home=home, **values)
    _check_together(settings, on_lambda=bool(environ.get(ON_LAMBDA)))
    _check_same_place(settings, given.keys())
    return settings


@cache
def kinds() -> Mapping[str, Any]:
    """The type of each setting, with its limits (`Annotated[int, Meta(ge=..., le=...)]`)."""
    return get_type_hints(Settings, include_extras=True)


def _check_names(given: Mapping[str, str]) -> None:
    unknown = given.keys() - kinds().keys()
    if not unknown:
        return
    import difflib

    name = min(unknown)
    near = difflib.get_close_matches(name, kinds(), n=1)
    meant = f"; did you mean {PREFIX}{near[0].upper()}?" if near else "; docs/settings.md lists them"
    raise _error(name, f"is not a setting of pingfeed{meant}")


def _error(name: str, sentence: str) -> SettingsError:
    variable = PREFIX + name.upper()
    return SettingsError(f"{variable} {sentence}", field=variable)


_SWITCH: Final = {
    **dict.fromkeys(("1", "yes", "true", "on"), True),
    **dict.fromkeys(("0", "no", "false", "off"), False),
}


def _value(name: str, kind: Any, text: str | None, home: Path) -> Any:
    """A setting's value from its text. Empty numbers and switches count as not set: `${VARIABLE:-}` gives that."""
    base = base_of(kind)
    if text is None or (not text and base in (int, float, bool)):
        default = getattr(Settings, name)
        if base is Path:
            return home / default
        return default.replace("HOME", str(home)) if name in SCHEMES else default
    if base is Path:
        return home / Path(text).expanduser()
    if name in SCHEMES and (text or name != "cache_url"):
        _check_url(name, text)
    elif name == "jwt_jwks" and text:
        return _jwks_address(text, home)
    elif name == "jwt_jwks_source" and text:
        _check_host(name, text)
    elif name == "jwt_secret" and text:
        _check_secret(text)
    try:
        return msgspec.convert(_plain(name, base, text), kind, strict=False)
    except msgspec.ValidationError as error:
        raise _error(name, rule(kind)) from error


def base_of(kind: Any) -> Any:
    """`int` of `Annotated[int, ...]`, `tuple` of `tuple[str, ...]`."""
    kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    return get_origin(kind) or kind


def _plain(name: str, base: Any, text: str) -> Any:
    """The input for msgspec: a list from commas, a boolean from a switch, else the text."""
    if base is bool:
        return _SWITCH.get(text.lower(), text)
    text = text.lower() if name in ("cors_origins", "demo_ingest_url") else text
    return [part.strip() for part in text.split(",") if part.strip()] if base is tuple else text


def rule(kind: Any) -> str:
    """What a value of this type must be, as the end of a sentence."""
    base = base_of(kind)
    if base is bool:
        return "must be 1 or 0 (or yes, no, true, false, on, off)"
    if base is Literal:
        *most, last = get_args(kind)
        return f"must be {', '.join(most)} or {last}"
    meta = next((one for one in get_args(kind) if isinstance(one, Meta)), None)
    if base is tuple and meta is None:
        return f"{rule(get_args(kind)[0])}, separated by commas"
    if meta is not None and meta.description is not None:
        return meta.description
    assert meta is not None, "text needs no rule"
    return f"must be {'a whole number' if base is int else 'a number'} from {meta.ge} to {meta.le}"


def _check_url(name: str, text: str) -> None:
    scheme = scheme_of(text)
    if scheme not in SCHEMES[name]:
        known = ", ".join(f"{s}://" for s in SCHEMES[name])
        raise _error(name, f"{f'has the scheme {scheme!r}' if scheme else 'is not a URL'}; known are {known}")
    if wrong := flaw(text):
        raise _error(name, wrong)


def _jwks_address(text: str, home: Path) -> str:
    """Where the keys are: a URL as it is, a path below `home`."""
    if "://" not in text:
        return str(home / Path(text).expanduser())
    if scheme_of(text) != "s3":
        _check_host("jwt_jwks", text)
    elif not re.fullmatch("s3://[a-z0-9.-]{3,63}/[A-Za-z0-9._/-]*[A-Za-z0-9._-]", text):
        raise _error("jwt_jwks", "must be like s3://bucket/jwks.json")
    return text


def _check_host(name: str, url: str) -> None:
    try:
        split = urlsplit(url)
        host, _ = split.hostname, split.port
    except ValueError:
        raise _error(name, "is not a URL") from None
    if not host or split.username or split.password or scheme_of(url) not in ("https", "http"):
        kind = "a path, or like" if name == "jwt_jwks" else "like"
        raise _error(name, f"must be {kind} https://login.example/.well-known/jwks.json")
    if scheme_of(url) == "http" and not is_loopback(host):
        raise _error(name, "must be https:// unless the host is this machine: its keys decide who may log in")


def _check_secret(text: str) -> None:
    if _size(text) < min(SECRET_BYTES.values()):
        raise _error("jwt_secret", f"must have at least {min(SECRET_BYTES.values())} bytes")
    if "-----BEGIN" in text:
        raise _error("jwt_secret", "is a key in PEM format; public keys go into a JWKS")


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))


def default_algorithms(jwks: str, secret: str) -> tuple[str, ...]:
    """What an empty PINGFEED_JWT_ALGORITHMS means."""
    if jwks:
        return ("RS256", "ES256")
    return ("HS256",) if secret else ()


def _check_together(settings: Settings, *, on_lambda: bool) -> None:
    if settings.auth == "gateway_jwt" and not on_lambda:
        raise _error("auth", "is gateway_jwt, which is for Lambda only: there API Gateway verifies the tokens")
    if settings.auth == "api_key" and not settings.api_key_hashes:
        raise _error("api_key_hashes", f"is empty while {PREFIX}AUTH is api_key")
    if settings.auth == "jwt":
        _check_jwt(settings)
    if 1440 % settings.tick_minutes:
        raise _error("tick_minutes", "must divide a day")


def _check_jwt(settings: Settings) -> None:
    """The settings decide which algorithms may sign, never the token. Public keys go with asymmetric algorithms and a
    shared secret with HS*: with both, a public key could pass for a secret."""
    jwks, secret = settings.jwt_jwks, settings.jwt_secret
    for name in ("jwt_audience", "jwt_issuer"):
        if not getattr(settings, name):
            raise _error(name, f"is empty while {PREFIX}AUTH is jwt")
    if not jwks and not secret:
        raise _error("jwt_jwks", f"is empty while {PREFIX}AUTH is jwt; name the keys, or set {PREFIX}JWT_SECRET")
    if jwks and secret:
        raise _error("jwt_secret", f"is set beside {PREFIX}JWT_JWKS; tokens are signed with one or the other")
    wrong = sorted(set(settings.jwt_algorithms) - set(KEY_ALGORITHMS if jwks else SECRET_BYTES))
    if wrong:
        source = f"{PREFIX}JWT_JWKS, a set of public keys" if jwks else f"{PREFIX}JWT_SECRET, a shared secret"
        raise _error("jwt_algorithms", f"names {wrong[0]}, which does not go with {source}")
    for name in () if jwks else settings.jwt_algorithms:
        if _size(secret) < SECRET_BYTES[name]:
            raise _error("jwt_secret", f"must have at least {SECRET_BYTES[name]} bytes for {name}")


def _check_same_place(settings: Settings, given: Set[str]) -> None:
    """Events that go where no tick reads would be acknowledged and never seen again."""
    if scheme_of(settings.lake_url) == "s3" and "events_url" not in given:
        name, other, say = "events_url", "LAKE_URL is on S3", "the stream that writes there, such as firehose://events"
    elif scheme_of(settings.events_url) == "firehose" and "lake_url" not in given:
        name, other, say = "lake_url", "EVENTS_URL is a stream", "where it writes, such as s3://bucket/lake"
    else:
        return
    raise _error(name, f"is not set while {PREFIX}{other}: events would go where no tick reads; name {say}")


def check_open(settings: Settings, host: str) -> None:
    """`none` serves on loopback only, unless PINGFEED_ALLOW_OPEN says that something else protects the port."""
    if settings.auth == "none" and not settings.allow_open and not is_loopback(host):
        raise _error("auth", f"is none, which may not listen on {host}; set api_key or jwt, or {PREFIX}ALLOW_OPEN=1")


_LOCAL: Final = frozenset({"file", "disk", "sqlite"})


def check_remote(settings: Settings, names: Iterable[str]) -> None:
    """A Lambda function loses its disk: SettingsError if one of these places is on it."""
    for name in names:
        scheme = scheme_of(getattr(settings, name))
        if scheme in _LOCAL:
            known = " or ".join(f"{known}://" for known in SCHEMES[name] if known not in _LOCAL)
            raise _error(name, f"is {scheme}://, a place that a Lambda function loses; set {known}")


def url_path(url: str) -> Path:
    """The path of a `file://`, `disk://` or `sqlite://` URL."""
    split = urlsplit(url)
    return Path(split.netloc + split.path)


def stream_of(url: str) -> str:
    """The stream's name in `firehose://stream`; SettingsError if the lake's readers would pass over its files."""
    if wrong := flaw(url):
        raise _error("events_url", wrong)
    return urlsplit(url).netloc


def shown(settings: Settings) -> dict[str, str]:
    """Name and value of every setting, secrets masked, for logs and `doctor`."""
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return {PREFIX + name.upper(): _shown(name, value) for name, value in values.items()}


def _shown(name: str, value: Any) -> str:
    if name in _SECRET:
        return "(set)" if value else "(not set)"
    return masked(str(value)) if name in (*SCHEMES, "jwt_jwks", "jwt_jwks_source") else str(value)
