"""A Redis' URL, and what its errors become; the server here says one thing to every command."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from pingfeed.adapters import registry
from pingfeed.adapters._redis import RedisClient, Script, address_of, chunks
from pingfeed.adapters.user_signals_redis import RedisUserSignals
from pingfeed.core.errors import SettingsError, Unavailable
from pingfeed.core.signals import Act
from pingfeed.core.urls import masked
from pingfeed.settings import load, shown
from tests.conformance.samples import NOON_MS

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("url", "namespace", "tls", "server"),
    [
        (
            "rediss://me:p%40ss%2F@cache.example:6380/2?namespace=shop",
            "shop",
            True,
            {"host": "cache.example", "port": 6380, "db": 2, "username": "me", "password": "p@ss/"},
        ),
        (
            "redis://[::1]",
            "pingfeed",
            False,
            {"host": "::1", "port": 6379, "db": 0, "username": None, "password": None},
        ),
    ],
)
def test_a_url_names_server_user_and_namespace(url: str, namespace: str, tls: bool, server: dict[str, object]) -> None:
    address = address_of(url)
    assert (address.namespace, address.tls, address.server) == (namespace, tls, server)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"redis://:{SECRET}@/0", "no host"),
        (f"redis://:{SECRET}@host/zero", "number of a database"),
        (f"redis://:{SECRET}@host:port", "port that is not a number"),
        (f"redis://:{SECRET}/more@host", "written %2F"),
        (f"redis://:{SECRET}@host?namespace=a:b", "the namespace may have"),
        (f"redis://:{SECRET}@host?namespace=", "the namespace may have"),
        (f"redis://:{SECRET}@host?db=3", "'db' is no option"),
        (f"redis://:{SECRET}@[host", "not a URL"),
    ],
)
@pytest.mark.parametrize("variable", ["PINGFEED_SIGNALS_URL", "PINGFEED_TRENDING_URL"])
def test_a_wrong_url_is_refused_by_the_variables_name_and_without_its_password(
    variable: str, url: str, said: str
) -> None:
    open_port = {"PINGFEED_SIGNALS_URL": registry.open_signals, "PINGFEED_TRENDING_URL": registry.open_trending}[
        variable
    ]
    with pytest.raises(SettingsError, match=said) as refused:
        open_port(load({variable: url}))
    assert refused.value.field == variable
    assert variable in refused.value.message
    assert SECRET not in refused.value.message


def test_a_cache_of_an_unknown_kind_is_refused_and_none_is_fine() -> None:
    with pytest.raises(SettingsError, match="PINGFEED_CACHE_URL has the scheme 'memcached'"):
        load({"PINGFEED_CACHE_URL": "memcached://host"})
    assert load({"PINGFEED_CACHE_URL": ""}).cache_url == ""


def test_a_password_is_shown_nowhere() -> None:
    url = f"redis://me:{SECRET}@host:6379/0?namespace=a"
    assert masked(url) == "redis://***@host:6379/0?namespace=a"
    settings = load({"PINGFEED_SIGNALS_URL": url, "PINGFEED_CACHE_URL": f"rediss://:{SECRET}@[::1]"})
    assert SECRET not in str(shown(settings))
    assert SECRET not in repr(address_of(url))


def test_a_url_without_one_is_shown_as_it_is() -> None:
    for url in ("redis://host:6379/0", "sqlite:///home/me@work/x.sqlite", "s3://bucket/a", "file:///a@b"):
        assert masked(url) == url


def test_chunks_keep_the_order_and_lose_nothing() -> None:
    assert list(chunks(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(chunks([], 3)) == []


@asynccontextmanager
async def saying(answer: bytes | Callable[[int], bytes]) -> AsyncIterator[tuple[str, list[int]]]:
    """A server that answers each read with the same, or with what the connection's number makes of it."""
    connections: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(number := len(connections) + 1)
        while await reader.read(65536):
            writer.write(answer if isinstance(answer, bytes) else answer(number))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", connections


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"-LOADING Redis is loading the dataset in memory", "still loading"),
        (b"-READONLY You can't write against a read only replica.", "a replica that takes no writes"),
        (b"-MOVED 3999 127.0.0.1:6381", "one node of a cluster of several"),
        (b"-CROSSSLOT Keys in request don't hash to the same slot", "several slots"),
        (b"-CLUSTERDOWN The cluster is down", "rejected the command: ClusterDownError"),
        (b"-OOM command not allowed when used memory > 'maxmemory'.", "is full"),
        (b"-NOAUTH Authentication required.", "does not accept the user or password"),
        (b"-NOPERM this user has no permissions to run the 'get' command", "does not let this user"),
        (b"-WRONGTYPE Operation against a key holding the wrong kind of value", "rejected the command: ResponseError"),
        (b"-MASTERDOWN Link with MASTER is down", "rejected the command: "),
        (b"HTTP/1.1 400 Bad Request", "cannot be reached|rejected the command: "),
    ],
)
async def test_every_refusal_is_unavailable_and_says_why(answer: bytes, said: str) -> None:
    async with saying(answer + b"\r\n") as (url, _):
        client = RedisClient(url)
        with pytest.raises(Unavailable, match=said) as refused:
            await client.run(("GET", "what-was-asked-for"))
        assert refused.value.__cause__ is not None
        assert url in refused.value.message
        assert "what-was-asked-for" not in refused.value.message
        await client.close()


async def test_a_refused_password_is_unavailable_and_not_told() -> None:
    async with saying(b"-WRONGPASS invalid username-password pair or user is disabled.\r\n") as (url, _):
        client = RedisClient(url.replace("//", f"//:{SECRET}@"))
        with pytest.raises(Unavailable, match="does not accept the user or password") as refused:
            await client.check()
        assert SECRET not in str(refused.value)
        assert SECRET not in str(refused.value.__cause__)
        await client.close()


async def test_after_a_failover_the_name_is_asked_for_again() -> None:
    """A connection to what is a replica now would answer READONLY for ever."""

    def answer(connection: int) -> bytes:
        return b"-READONLY You can't write against a read only replica.\r\n" if connection == 1 else b"+OK\r\n"

    async with saying(answer) as (url, connections):
        client = RedisClient(url)
        with pytest.raises(Unavailable):
            await client.run(("SET", "a", "b"))
        assert await client.run(("SET", "a", "b")) == [b"OK"]
        assert connections == [1, 2]
        await client.close()


async def test_a_call_that_is_never_answered_ends_in_time_and_keeps_no_connection() -> None:
    async with saying(b"") as (url, _):
        client = RedisClient(url, timeout_s=0.05)
        for _ in range(3):  # Each with more calls than the pool has connections.
            calls = [client.run(("GET", "a")) for _ in range(40)]
            async with asyncio.timeout(5):
                outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert all("did not answer within 0.05 s" in str(outcome) for outcome in outcomes)
        assert client._redis is not None
        assert client._redis.connection_pool._in_use_connections == set()
        await client.close()


async def test_nobody_there_is_unavailable() -> None:
    signals = RedisUserSignals("redis://127.0.0.1:1")
    for call in (
        signals.check(),
        signals.read("ann", NOON_MS),
        signals.apply([Act("ann", "seen", "p", NOON_MS)]),
        signals.apply([Act("", "deleted", "p", NOON_MS)]),
        signals.forget("ann"),
    ):
        with pytest.raises(Unavailable, match="cannot be reached"):
            await call
    await signals.close()
    await signals.close()


async def test_nothing_to_send_is_no_round_trip() -> None:
    assert await RedisClient("redis://127.0.0.1:1").run() == []


def test_a_script_is_named_by_its_digest() -> None:
    script = Script("return 1")
    assert script.on(["a", "b"], 7) == ("EVALSHA", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", 2, "a", "b", 7)
