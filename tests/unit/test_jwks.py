"""The keys that verify tokens: which are usable, when they are refreshed, and what happens if they cannot be read."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pingfeed.core.errors import FormatError, SettingsError, Unauthenticated, Unavailable
from pingfeed.settings import load
from pingfeed.web import jwks
from pingfeed.web.jwt import CACHED_MS, Tokens
from pingfeed.web.metrics import Metrics
from tests.unit import issuer
from tests.unit.feed_world import until
from tests.unit.http_shell import client_of, shell
from tests.unit.issuer import now_s, token
from tests.unit.loopback import serving

BOTH = ("RS256", "ES256")


@pytest.mark.parametrize(
    "unusable",
    [
        issuer.jwk("rsa-2", alg="RS512"),
        issuer.jwk("rsa-2", use="enc"),
        issuer.jwk("rsa-2") | {"d": "AQAB"},
        issuer.jwk("rsa-2") | {"kid": 5},
        issuer.jwk("rsa-2") | {"n": "!"},
        issuer.jwk("ec-2") | {"crv": "P-384"},
        issuer.jwk("short-1"),
        {"kty": "oct", "kid": "s", "k": "c2VjcmV0"},
        {"kty": "new", "kid": "s"},
    ],
)
def test_only_public_keys_that_fit_an_algorithm_are_used(unusable: dict[str, object]) -> None:
    keys = issuer.jwks(issuer.jwk("rsa-1", alg="RS256"), unusable, "ec-1")
    assert set(jwks.parse(keys, BOTH)) == {("rsa-1", "RS256"), ("ec-1", "ES256")}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"keys":5}', b'{"keys":[]}', b'{"keys":[1]}', b"\xff"])
def test_invalid_key_set_is_rejected(body: bytes) -> None:
    with pytest.raises(FormatError):
        jwks.parse(body, BOTH)


@dataclass
class Login:
    """An issuer's server as `PublishedKeys` sees it, and the clocks that a test moves."""

    body: bytes = field(default_factory=lambda: issuer.jwks("rsa-1"))
    down: bool = False
    hangs: threading.Event | None = None
    reads: int = 0
    now_s: float = 0.0
    changes: int = 0
    metrics: Metrics = field(default_factory=Metrics)

    def read(self) -> bytes:
        self.reads += 1
        if self.hangs is not None:
            self.hangs.wait(20)
        if self.down:
            raise Unavailable("did not answer")
        return self.body

    def changed(self) -> None:
        self.changes += 1

    def keys(self) -> jwks.PublishedKeys:
        counter = self.metrics.counter("jwks_reads", "", ("outcome",))
        return jwks.PublishedKeys(
            partial(asyncio.to_thread, self.read),
            BOTH,
            monotonic=lambda: self.now_s,
            reads=counter,
            on_change=self.changed,
        )

    def count(self, outcome: str) -> float | None:
        return self.metrics.registry.get_sample_value("pingfeed_jwks_reads_total", {"outcome": outcome})


@pytest.fixture
def login() -> Login:
    return Login()


@pytest.fixture
async def keys(login: Login) -> jwks.PublishedKeys:
    """The issuer's keys, read once."""
    keys = login.keys()
    assert await keys.find("rsa-1", "RS256") is not None
    return keys


async def test_new_key_is_found_at_once_and_removed_key_is_gone(login: Login, keys: jwks.PublishedKeys) -> None:
    assert await keys.find("rsa-1", "ES256") is None
    login.body = issuer.jwks("rsa-2")
    login.now_s += jwks.RETRY_S
    assert await keys.find("rsa-2", "RS256") is not None
    assert await keys.find("rsa-1", "RS256") is None
    assert (login.reads, login.changes) == (2, 2)


async def test_flood_of_unknown_ids_reads_once_in_ten_seconds(login: Login, keys: jwks.PublishedKeys) -> None:
    for _ in range(10):
        login.now_s += 1
        assert not any(await asyncio.gather(*(keys.find(f"unknown-{i}", "RS256") for i in range(100))))
    assert login.reads == 2


async def test_concurrent_lookups_share_one_read(login: Login) -> None:
    keys = login.keys()
    assert all(await asyncio.gather(*(keys.find("rsa-1", "RS256") for _ in range(100))))
    assert login.reads == 1


async def test_old_set_is_refreshed_in_the_background(login: Login, keys: jwks.PublishedKeys) -> None:
    login.body = issuer.jwks("rsa-2")
    login.now_s += jwks.MAX_AGE_S
    assert await keys.find("rsa-1", "RS256") is not None, "no request waits for the refresh"

    async def changed() -> bool:
        return login.changes == 2

    await until(changed)
    assert await keys.find("rsa-1", "RS256") is None


async def test_revoked_key_is_rejected_after_a_long_silence(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    """The set is refreshed without requests, so no request has to wait for it."""
    monkeypatch.setattr(jwks, "MAX_AGE_S", 0.01)
    keys = login.keys()
    assert await keys.find("rsa-1", "RS256") is not None
    login.body = issuer.jwks("rsa-2")
    login.now_s += jwks.RETRY_S

    async def changed() -> bool:
        return login.changes == 2

    await until(changed)
    assert await keys.find("rsa-1", "RS256") is None


@pytest.mark.parametrize("silence_s", [jwks.MAX_AGE_S, 2 * jwks.MAX_AGE_S, 100 * jwks.MAX_AGE_S])
async def test_a_known_key_never_waits_for_a_hanging_server(
    login: Login, keys: jwks.PublishedKeys, silence_s: float
) -> None:
    answer = threading.Event()
    login.hangs = answer
    try:
        for _ in range(5):
            login.now_s += silence_s
            async with asyncio.timeout(0.5):
                assert await keys.find("rsa-1", "RS256") is not None
    finally:
        answer.set()


@pytest.mark.parametrize("body", [b'{"keys":[]}', b"", b"<html>", issuer.jwks("short-1")])
async def test_an_unusable_key_set_replaces_the_old_one_after_ten_minutes(
    login: Login, keys: jwks.PublishedKeys, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    login.body = body
    for _ in range(60):
        assert await keys.find("rsa-1", "RS256") is not None
        login.now_s += jwks.RETRY_S
        await keys.find("unknown", "RS256")  # waits for a refresh
    login.now_s += jwks.RETRY_S
    await keys.find("unknown", "RS256")
    assert await keys.find("rsa-1", "RS256") is None
    assert keys.problem is not None
    assert "revoked" in caplog.text
    assert login.changes == 2
    login.body = issuer.jwks("rsa-1")
    login.now_s += jwks.RETRY_S
    assert await keys.find("rsa-1", "RS256") is not None
    assert keys.problem is None


async def test_a_server_that_is_down_revokes_nothing_but_is_named_in_readyz(
    login: Login, keys: jwks.PublishedKeys
) -> None:
    login.down = True
    for _ in range(100):
        login.now_s += jwks.MAX_AGE_S
        await keys.find("unknown", "RS256")
    assert await keys.find("rsa-1", "RS256") is not None
    assert keys.problem == "the key set did not answer"


@pytest.mark.parametrize("body", [None, b"<html>", b'{"keys":[]}'])
async def test_old_set_is_kept_when_a_refresh_fails(
    login: Login, keys: jwks.PublishedKeys, body: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    login.down, login.body = body is None, body or b""
    login.now_s += jwks.MAX_AGE_S
    assert await keys.find("rsa-9", "RS256") is None
    assert await keys.find("rsa-1", "RS256") is not None
    assert (login.count("ok"), login.count("failed")) == (1, 1)
    assert "could not refresh" in caplog.text


async def test_without_any_key_set_tokens_are_unavailable_not_invalid(login: Login) -> None:
    login.down = True
    keys = login.keys()
    for _ in range(50):
        with pytest.raises(Unavailable):
            await keys.find("rsa-1", "RS256")
    assert login.reads == 1
    login.down = False
    login.now_s += jwks.RETRY_S
    assert await keys.find("rsa-1", "RS256") is not None


SERVED = {
    "/keys": (200, issuer.jwks("rsa-1")),
    "/moved": (302, b"/keys"),
    "/broken": (500, b""),
    "/huge": (200, b"x" * (jwks.MAX_BYTES + 1)),
}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving(lambda path: SERVED[path]) as port:
        yield f"http://127.0.0.1:{port}"


async def test_key_url_is_read(server: str) -> None:
    assert await jwks.source_of(f"{server}/keys")() == issuer.jwks("rsa-1")


SERVERS = ["{server}/moved", "{server}/broken", "{server}/huge", "http://127.0.0.1:1/keys"]


@pytest.mark.parametrize("address", [*SERVERS, "{folder}", "{folder}/absent", "{folder}/huge"])
async def test_a_failing_server_and_an_unusable_file_are_unavailable(server: str, tmp_path: Path, address: str) -> None:
    (tmp_path / "huge").write_bytes(b"x" * (jwks.MAX_BYTES + 1))
    with pytest.raises(Unavailable):
        await jwks.source_of(address.format(server=server, folder=tmp_path))()


@dataclass
class Now:
    ms: int = field(default_factory=lambda: now_s() * 1000)
    s: float = 0.0


def tokens(now: Now, **environ: str) -> Tokens:
    settings = load({f"PINGFEED_{name}": value for name, value in environ.items()})
    return Tokens(settings, clock=lambda: now.ms, monotonic=lambda: now.s, metrics=Metrics())


async def subject(of: Tokens, text: str) -> str:
    return await of.subject(text.encode(), text.encode())


async def test_keys_from_a_url_verify_tokens(server: str, tmp_path: Path) -> None:
    checked = tokens(Now(), **(issuer.environ(tmp_path) | {"JWT_JWKS": f"{server}/keys"}))
    assert await subject(checked, token()) == "u1"
    with pytest.raises(Unauthenticated):
        await subject(checked, token(kid="ec-1", signed_by="ec-1"))


async def test_cached_token_expires_with_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = Now()

    class LibraryClock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "LibraryClock":
            return cls.fromtimestamp(now.ms / 1000, tz)

    monkeypatch.setattr("jwt.api_jwt.datetime", LibraryClock)
    checked = tokens(now, **issuer.environ(tmp_path))
    short = token(exp=now.ms // 1000 + 10)
    assert await subject(checked, short) == "u1"
    now.ms += 39_999
    assert await subject(checked, short) == "u1"
    now.ms += 1
    with pytest.raises(Unauthenticated, match="expired"):
        await subject(checked, short)


async def test_cached_token_ends_when_its_key_is_revoked(tmp_path: Path) -> None:
    now, environ = Now(), issuer.environ(tmp_path)
    checked = tokens(now, **environ)
    old = token()
    assert await subject(checked, old) == "u1"
    issuer.publish(environ, "rsa-2")
    now.s += jwks.RETRY_S
    assert await subject(checked, token("u2", kid="rsa-2", signed_by="rsa-2")) == "u2"
    with pytest.raises(Unauthenticated, match="unknown"):
        await subject(checked, old)


async def test_cached_token_is_verified_again_after_a_minute(tmp_path: Path) -> None:
    now, environ = Now(), issuer.environ(tmp_path)
    checked = tokens(now, **environ)
    text = token(exp=now_s() + 86_400)
    await subject(checked, text)
    issuer.publish(environ, "rsa-2")
    now.s += jwks.MAX_AGE_S
    now.ms += CACHED_MS
    assert await subject(checked, text) == "u1", "which starts the refresh"

    async def refused() -> bool:
        try:
            return not await subject(checked, text)
        except Unauthenticated:
            return True

    await until(refused)


async def test_token_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pingfeed.web.jwt.MAX_CACHED", 10)
    checked = tokens(Now(), **issuer.SHARED)
    for i in range(50):
        assert await subject(checked, issuer.shared(f"u{i}")) == f"u{i}"
    assert len(checked._cache) == 10


@given(st.binary(max_size=300) | st.from_regex(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*", fullmatch=True))
def test_arbitrary_bytes_are_unauthenticated(text: bytes) -> None:
    with pytest.raises(Unauthenticated):
        asyncio.run(tokens(Now(), **issuer.SHARED).subject(text, text))


@pytest.mark.parametrize("body", [None, b'{"keys":[]}', b"pem"])
def test_key_file_without_keys_fails_the_start(tmp_path: Path, body: bytes | None) -> None:
    path = tmp_path / "unusable.json"
    if body is not None:
        path.write_bytes(body)
    with pytest.raises(SettingsError) as error:
        tokens(Now(), **(issuer.environ(tmp_path) | {"JWT_JWKS": str(path)}))
    assert error.value.field == "PINGFEED_JWT_JWKS"


async def test_readyz_names_keys_that_cannot_be_refreshed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "RETRY_S", 0.0)
    environ = issuer.environ(tmp_path)
    async with client_of(shell(**environ)) as client:
        assert (await client.get("/readyz")).json()["degraded"] == []
        issuer.publish(environ)
        unknown = token(kid="unknown")
        assert (await client.get("/who", headers=issuer.bearer(unknown))).status_code == 401
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["degraded"]) == (200, ["keys"])
        assert (await client.get("/who", headers=issuer.bearer(token()))).status_code == 200
