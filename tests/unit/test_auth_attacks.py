"""Forged, stolen and missing credentials: a 401 or a 403 on both services, and nothing is stored."""

import base64
import hmac
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from tests.unit import issuer
from tests.unit.feed_world import World as FeedWorld
from tests.unit.feed_world import catalogue, feed_world
from tests.unit.http_shell import KEY, digest_of
from tests.unit.ingest_world import World as IngestWorld
from tests.unit.ingest_world import ingest_world
from tests.unit.issuer import bearer, now_s, token

DIGEST = digest_of(KEY)
AWAY = "203.0.113.9"
LIKE = {"event_type": "like", "user_id": "u1", "ping_id": "p1"}
World = IngestWorld | FeedWorld
Headers = dict[str, str]


def part(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def by_hand(header: Any, claims: Any, secret: bytes | None = None) -> str:
    """A token that JWT libraries refuse to make."""
    signed = f"{part(header)}.{part(claims)}"
    return f"{signed}.{part(hmac.digest(secret, signed.encode(), 'sha256')) if secret else ''}"


def signed(algorithm: str = "RS256", by: str = "rsa-1", **header: Any) -> str:
    """Good claims under the id of the issuer's RSA key."""
    return jwt.encode(issuer.claims(), issuer.key(by), algorithm, {"kid": "rsa-1"} | header)


def by_claims(changes: dict[str, Any], without: str = "") -> str:
    """Signed by the issuer's key, whatever the claims."""
    made = {name: value for name, value in (issuer.claims() | changes).items() if name != without}
    return jwt.PyJWS().encode(json.dumps(made).encode(), issuer.key("rsa-1"), "RS256", {"kid": "rsa-1"})


def changed() -> str:
    head, _, tail = token().split(".")
    return f"{head}.{part(issuer.claims('u2'))}.{tail}"


BAD_TOKENS: dict[str, Callable[[], str]] = {
    "expired": lambda: token(exp=now_s() - 31),
    "not yet valid": lambda: token(nbf=now_s() + 60),
    "for another audience": lambda: token(aud="another"),
    "for other audiences": lambda: token(aud=["another", "third"]),
    "by another issuer": lambda: token(iss="https://evil.example/"),
    "without aud": lambda: token(aud=None),
    "without iss": lambda: token(iss=None),
    "without exp": lambda: token(exp=None),
    "exp beyond all numbers": lambda: token(exp=10**400),
    "sub empty": lambda: by_claims({"sub": ""}),
    "sub null": lambda: by_claims({"sub": None}),
    "sub absent": lambda: by_claims({}, "sub"),
    "sub no string": lambda: by_claims({"sub": 5}),
    "sub no user id": lambda: token("u1 u2"),
    "sub with a line feed": lambda: token("u1\n"),
    "exp for ever": lambda: by_claims({"exp": float("inf")}),
    "exp no number": lambda: by_claims({"exp": "tomorrow"}),
    "exp true": lambda: by_claims({"exp": True}),
    "exp null": lambda: by_claims({"exp": None}),
    "nbf no number": lambda: by_claims({"nbf": "x"}),
    "alg none": lambda: by_hand({"alg": "none", "kid": "rsa-1"}, issuer.claims()),
    "alg None": lambda: by_hand({"alg": "None", "kid": "rsa-1"}, issuer.claims()),
    "alg absent": lambda: by_hand({"kid": "rsa-1"}, issuer.claims(), b"x" * 32),
    "alg no string": lambda: by_hand({"alg": ["RS256"], "kid": "rsa-1"}, issuer.claims(), b"x" * 32),
    "HS256 with the public key": lambda: by_hand(
        {"alg": "HS256", "typ": "JWT", "kid": "rsa-1"}, issuer.claims(), issuer.public_pem("rsa-1")
    ),
    "RS512, which is not accepted": lambda: signed("RS512"),
    "PS256 with the RSA key": lambda: signed("PS256"),
    "ES256 with the RSA key's id": lambda: token(kid="rsa-1", signed_by="ec-1"),
    "another key under a known id": lambda: token(kid="rsa-1", signed_by="rsa-x"),
    "a key that it brings along": lambda: signed(
        by="rsa-x", jwk=issuer.jwk("rsa-x"), jku="https://evil.example/jwks.json"
    ),
    "unknown kid": lambda: token(kid="rsa-9"),
    "kid a path": lambda: token(kid="../../dev/null"),
    "without kid": lambda: token(kid=None),
    "kid no string": lambda: by_hand({"alg": "RS256", "kid": {"a": 1}}, issuer.claims(), b"x" * 32),
    "changed claims": changed,
    "cut short": lambda: token()[:-9],
    "without signature": lambda: token().rpartition(".")[0] + ".",
    "critical extension": lambda: signed(crit=["x"], x=1),
    "claims a list": lambda: by_hand({"alg": "RS256", "kid": "rsa-1"}, [1], b"x" * 32),
    "garbage": lambda: "garbage",
    "three garbage parts": lambda: "a.b.c",
    "dots": lambda: "..",
    "many dots": lambda: "." * 5000,
    "no base64": lambda: "{}.{}.{}",
    "deep header": lambda: part(b"[" * 3000 + b"]" * 3000) + ".e30.AA",
    "header no UTF-8": lambda: part(b'{"alg":"\xff"}') + ".e30.AA",
    "huge": lambda: token(name="x" * 9000),
    "a digest of a key": lambda: DIGEST,
}


@asynccontextmanager
async def world_of(service: str, folder: Path, **environ: str) -> AsyncIterator[World]:
    if service == "ingest":
        async with ingest_world(folder, peer=AWAY, environ=environ) as ingest:
            yield ingest
    else:
        async with feed_world(folder, catalogue(20), peer=AWAY, environ=environ) as feed:
            yield feed


async def ask(world: World, headers: Headers, query: str = "", **changes: Any) -> httpx.Response:
    """A request of a user's app: a like to ingest, or a feed."""
    if isinstance(world, IngestWorld):
        body = LIKE | changes
        return await world.client.post(f"/track-event{query and '?' + query}", json=body, headers=headers)
    user = changes.get("user_id", "u1")
    return await world.client.get(f"/get-feed?user_id={user}{query and '&' + query}", headers=headers)


both = pytest.mark.parametrize("service", ["ingest", "feed"])


@both
async def test_a_good_token_gets_in(tmp_path: Path, service: str) -> None:
    async with world_of(service, tmp_path, **issuer.environ(tmp_path)) as world:
        for good in (token(), token(kid="ec-1", signed_by="ec-1"), token(aud=["x", "pingfeed"], nbf=now_s() + 20)):
            answer = await ask(world, bearer(good))
            assert answer.status_code == (202 if service == "ingest" else 200), answer.text
        assert (await ask(world, bearer(token(exp=now_s() - 20)))).is_success, "clocks differ a little"


@both
@pytest.mark.parametrize("attack", BAD_TOKENS)
async def test_a_bad_token_is_a_401(tmp_path: Path, service: str, attack: str) -> None:
    async with world_of(service, tmp_path, API_KEY_HASHES=DIGEST, **issuer.environ(tmp_path)) as world:
        await assert_rejected(world, 401, await ask(world, bearer(BAD_TOKENS[attack]())))


async def assert_rejected(world: World, status: int, answer: httpx.Response) -> None:
    """The response is an error in the common shape, and nothing was stored."""
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["code"] == {401: "unauthenticated", 403: "forbidden"}[status]
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert ("www-authenticate" in answer.headers) == (status == 401)
    assert world.spooled() == []


NO_CREDENTIAL: dict[str, Callable[[], Headers]] = {
    "nothing": dict,
    "a wrong key": lambda: {"X-API-Key": "wrong"},
    "a wrong key as a bearer's": lambda: bearer("wrong"),
    "an empty key": lambda: {"X-API-Key": ""},
    "a key as a password": lambda: {"Authorization": "Basic " + base64.b64encode(f"{KEY}:{KEY}".encode()).decode()},
    "a key as a cookie": lambda: {"Cookie": f"X-API-Key={KEY}"},
    "a token as a key": lambda: {"X-API-Key": token()},
    "the key's digest": lambda: {"X-API-Key": DIGEST},
    "half of the key": lambda: {"X-API-Key": KEY[:-1]},
}


@both
@pytest.mark.parametrize("auth", ["api_key", "jwt"])
@pytest.mark.parametrize("attack", NO_CREDENTIAL)
async def test_no_credential_is_a_401_and_those_in_the_query_are_ignored(
    tmp_path: Path, service: str, auth: str, attack: str
) -> None:
    environ = issuer.environ(tmp_path) | {"AUTH": auth, "API_KEY_HASHES": DIGEST}
    async with world_of(service, tmp_path, **environ) as world:
        for good in ("", KEY, token()):
            names = ("api_key", "key", "X-API-Key", "access_token", "token")
            query = "&".join([*(f"{name}={good}" for name in names), f"authorization=Bearer%20{good}"])
            await assert_rejected(world, 401, await ask(world, NO_CREDENTIAL[attack](), query))


@both
async def test_a_token_is_not_an_api_key(tmp_path: Path, service: str) -> None:
    async with world_of(service, tmp_path, AUTH="api_key", API_KEY_HASHES=DIGEST) as world:
        await assert_rejected(world, 401, await ask(world, bearer(token())))


@both
async def test_a_token_of_another_secret_is_a_401(tmp_path: Path, service: str) -> None:
    async with world_of(service, tmp_path, **issuer.SHARED) as world:
        assert (await ask(world, bearer(issuer.shared()))).is_success
    async with world_of(service, tmp_path / "empty", **issuer.SHARED) as world:
        for bad in (
            issuer.shared(secret="x" * 64),
            issuer.shared(algorithm="HS512"),
            by_hand({"alg": "none"}, issuer.claims()),
            by_hand({"alg": "HS256"}, issuer.claims(), b"\0"),
            token(),
        ):
            await assert_rejected(world, 401, await ask(world, bearer(bad)))


@both
async def test_another_users_name_is_a_403(tmp_path: Path, service: str) -> None:
    async with world_of(service, tmp_path, **issuer.environ(tmp_path)) as world:
        for user in ("u2", "U1", "u1.", "u"):
            answer = await ask(world, bearer(token()), user_id=user)
            await assert_rejected(world, 403, answer)
            assert answer.json()["error"]["field"] == "user_id"


@pytest.mark.parametrize(
    ("event", "field"),
    [
        ({"event_type": "ping_deleted", "ping_id": "p1"}, "event_type"),
        ({"event_type": "ping_deleted", "ping_id": "p1", "user_id": "u1"}, "event_type"),
        ({"event_type": "ping_deleted", "ping_id": "p1", "user_id": "u1", "creator_id": "u1"}, "event_type"),
        ({"event_type": "ping_created", "ping_id": "p1", "creator_id": "u2"}, "creator_id"),
        ({"event_type": "ping_created", "ping_id": "p1", "creator_id": "u2", "user_id": "u1"}, "creator_id"),
        ({"event_type": "ping_created", "ping_id": "p1", "creator_id": "u1", "user_id": "u2"}, "user_id"),
        ({"event_type": "ping_created", "ping_id": "p1"}, "creator_id"),
        ({"event_type": "follow", "creator_id": "u1", "user_id": "u2"}, "user_id"),
        ({"event_type": "user_updated", "user_id": "u2", "country": "DE"}, "user_id"),
        ({"event_type": "like", "ping_id": "p1"}, "user_id"),
        ({"event_type": "like", "ping_id": "p1", "user_id": ["u1"]}, "user_id"),
        ({"event_type": "feed_served", "user_id": "u2"}, "user_id"),
    ],
)
async def test_what_a_user_may_not_send_is_a_403_and_kept(tmp_path: Path, event: dict[str, Any], field: str) -> None:
    async with ingest_world(tmp_path, peer=AWAY, environ=issuer.environ(tmp_path), USER_CATALOGUE="1") as world:
        for path, body in (("/track-event", event), ("/track-events", {"events": [event, event]})):
            answer = await world.client.post(path, json=body, headers=bearer(token()))
            await assert_rejected(world, 403, answer)
            assert answer.json()["error"]["field"] == field
        assert world.signals.applied == []
    assert [line["code"] for line in world.rejected_lines()] == ["forbidden"] * 3


async def test_explain_is_for_the_users_own_feed_and_metrics_for_no_user(tmp_path: Path) -> None:
    async with feed_world(tmp_path, catalogue(20), peer=AWAY, environ=issuer.environ(tmp_path)) as world:
        mine = await world.client.get("/get-feed?user_id=u1&explain=true", headers=bearer(token()))
        assert "explain" in mine.json()["items"][0]
        theirs = await world.client.get("/get-feed?user_id=u2&explain=true", headers=bearer(token()))
        assert theirs.status_code == 403
        assert (await world.client.get("/metrics", headers=bearer(token()))).status_code == 403
        assert (await world.client.get("/metrics", headers=bearer(token(exp=now_s() - 99)))).status_code == 401
        assert (await world.client.get("/metrics")).status_code == 401
