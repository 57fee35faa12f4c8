"""Redis or Valkey (6.2 or later): its URL, one connection pool per adapter, and its errors translated into ours.

    redis://[[user]:[password]@]host[:port][/database][?namespace=name]        rediss:// is the same with TLS

Every key begins with the namespace (`pingfeed` where none is given), so that several installations may share a server.
Every command names keys of one hash slot only, so a node in cluster mode or a serverless endpoint takes them as well.

A call has one time-out over everything: waiting for a connection, making one, sending, and the answers. A connection
that turns out to be dead (the server was restarted) is replaced and its commands are sent once more, so every command
must be safe to send twice. While the server does not answer, calls fail at once (`pingfeed/core/breaker.py`).
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from pingfeed.core.breaker import Breaker
from pingfeed.core.errors import PingfeedError, SettingsError, Unavailable
from pingfeed.core.urls import flaw, masked

TIMEOUT_S: Final = 1.0
_CONNECTIONS: Final = 16
_CHECK_MS: Final = 60_000
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_REASONS: Final[tuple[tuple[type[RedisError], str], ...]] = (
    (AuthenticationError, "does not accept the user or password in its URL"),
    (AuthorizationError, "does not accept the user or password in its URL"),
    (NoPermissionError, "does not let this user do what pingfeed needs"),
    (BusyLoadingError, "is still loading its data"),
    (ReadOnlyError, "is a replica that takes no writes"),
    (OutOfMemoryError, "is full, and its maxmemory-policy lets it evict nothing"),
    (MovedError, "is one node of a cluster of several; name an endpoint that serves all slots"),
    (ClusterCrossSlotError, "was sent keys of several slots"),
    (RedisConnectionError, "cannot be reached"),
)

_T = TypeVar("_T")
Command = tuple[str | bytes | int | float, ...]


@dataclass(frozen=True)
class Address:
    """What a URL says; `shown` is the URL without its secrets, `server` the arguments of a connection."""

    shown: str
    namespace: str
    tls: bool
    server: Mapping[str, Any] = field(repr=False)


def address_of(url: str) -> Address:
    """The address in a `redis://` or `rediss://` URL; SettingsError says what is wrong, and no password."""
    if wrong := flaw(url):
        raise SettingsError(f"{masked(url)} {wrong}")
    split = urlsplit(url)
    options = dict(parse_qsl(split.query, keep_blank_values=True))
    namespace, database = options.pop("namespace", "pingfeed"), split.path.removeprefix("/") or "0"
    if options:
        raise SettingsError(f"{masked(url)}: {min(options)!r} is no option; there is namespace")
    if not _NAMESPACE.fullmatch(namespace):
        rule = "the namespace may have 1 to 64 letters, digits, dots, dashes and underscores"
        raise SettingsError(f"{masked(url)}: {rule}")
    if not database.isdecimal():
        raise SettingsError(f"{masked(url)}: the path is the number of a database, such as /0")
    server = {
        "host": split.hostname,
        "port": split.port or 6379,
        "db": int(database),
        "username": unquote(split.username or "") or None,
        "password": unquote(split.password or "") or None,
    }
    return Address(masked(url), namespace, split.scheme == "rediss", server)


class Script:
    """A Lua script that the server runs as one step; it is sent by its digest, and as text where that is unknown."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def on(self, keys: Sequence[str], *args: str | bytes | int | float) -> Command:
        """The command that runs it; all keys it touches are in `keys`."""
        return ("EVALSHA", self.digest, len(keys), *keys, *args)


class RedisClient:
    """A pool of connections to one server, for one event loop. Nothing is opened before the first call.

    client = RedisClient("redis://127.0.0.1:6379/0?namespace=shop")
    packet, news = await client.run(("GET", client.key("a")), ("XRANGE", client.key("b"), "-", "+"))
    await client.close()

    Answers are as RESP2 has them: bytes, ints, lists of those, None.
    """

    def __init__(self, url: str, scripts: Sequence[Script] = (), *, timeout_s: float = TIMEOUT_S) -> None:
        self.address = address_of(url)
        self._timeout_s = timeout_s
        self._texts = {script.digest: script.text for script in scripts}
        self._redis: Redis | None = None
        self._breaker = Breaker("redis", self.address.shown)

    def key(self, name: str) -> str:
        """A key's full name."""
        return f"{self.address.namespace}:{name}"

    async def run(self, *commands: Command) -> list[Any]:
        """The answers in order, after one round trip. Raises Unavailable if one failed; the others were carried out."""
        if not commands:
            return []
        with self._breaker.watching(_is_silent):
            return await self._run(commands)

    async def _run(self, commands: Sequence[Command]) -> list[Any]:
        async with self._translated():
            answers = await self._send(commands)
            unknown = [at for at, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
            if unknown:
                again = await self._send([self._as_text(commands[at]) for at in unknown])
                for at, answer in zip(unknown, again, strict=True):
                    answers[at] = answer
            for answer in answers:
                if isinstance(answer, RedisError):
                    raise answer
        return answers

    async def check(self) -> None:
        """Raise Unavailable with a sentence if the server does not answer or takes no writes."""
        await self.run(("SET", self.key("check"), 1, "PX", _CHECK_MS))

    async def close(self) -> None:
        """Let the connections go."""
        redis, self._redis = self._redis, None
        if redis is not None:
            await redis.aclose()

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        if self._redis is None:
            self._redis = _opened(self.address)
        pipeline = self._redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return await pipeline.execute(raise_on_error=False)

    def _as_text(self, command: Command) -> Command:
        return ("EVAL", self._texts[str(command[1])], *command[2:])

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        """Redis' errors as Unavailable, the cause chained; what was sent, which an answer may quote, is left out."""
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except TimeoutError as error:
            raise Unavailable(f"{self.address.shown} did not answer within {self._timeout_s:g} s") from error
        except ReadOnlyError as error:
            await self._reconnect()
            raise self._unavailable(error) from error
        except RedisError as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: RedisError) -> Unavailable:
        said = next((text for kind, text in _REASONS if isinstance(error, kind)), None)
        return Unavailable(f"{self.address.shown} {said or f'rejected the command: {type(error).__name__}'}")

    async def _reconnect(self) -> None:
        """After a failover the name leads to another node, and a connection that is open does not."""
        if self._redis is not None:
            await self._redis.connection_pool.disconnect(inuse_connections=False)


def _is_silent(error: PingfeedError) -> bool:
    """A refused connection costs nothing, and is asked again at once."""
    return isinstance(error.__cause__, TimeoutError)


def _opened(address: Address) -> Redis:
    pool = BlockingConnectionPool(
        connection_class=SSLConnection if address.tls else Connection,
        max_connections=_CONNECTIONS,
        timeout=None,
        **address.server,
        # One time-out around a whole call does what these would do for each step, exactly and for less.
        socket_timeout=None,
        socket_connect_timeout=None,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        protocol=2,
        driver_info=None,  # It would read the installed packages' metadata for every connection, 3 ms.
    )
    redis = Redis.from_pool(pool)
    redis.response_callbacks.clear()  # They differ from version to version; the protocol's own shapes do not.
    return redis


def chunks(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """The items in order, `size` at a time: what one pipeline or script may hold."""
    left = iter(items)
    while some := list(islice(left, size)):
        yield some
