"""Limits for each caller: a burst, then so many a second; who may come back when."""

import hashlib
from dataclasses import dataclass

import pytest

from pingfeed.core.errors import TooManyRequests
from pingfeed.settings import load
from pingfeed.web.auth import Authenticator, RateLimiter
from pingfeed.web.metrics import Metrics
from tests.unit import issuer
from tests.unit.http_shell import client_of, shell
from tests.unit.ingest_world import NOW_MS

ONE, OTHER = "key-one", "key-other"
KEYS = {"AUTH": "api_key", "API_KEY_HASHES": ",".join(hashlib.sha256(key.encode()).hexdigest() for key in (ONE, OTHER))}


@dataclass
class Now:
    s: float = 1000.0


def limit(now: Now, rate: float, burst: int, **more: int) -> RateLimiter:
    rejected = Metrics().counter("rate_limited", "")
    return RateLimiter(rate, burst, monotonic=lambda: now.s, rejected=rejected, **more)


def passed(found: RateLimiter, times: int, who: str = "u") -> int:
    """How many of so many requests at once are let in."""
    count = 0
    for _ in range(times):
        try:
            found.charge(who)
        except TooManyRequests:
            continue
        count += 1
    return count


@pytest.mark.parametrize(("rate", "burst", "at_once"), [(1, 5, 5), (2, 0, 20), (0.05, 0, 1), (0.1, 7, 7), (0.3, 3, 3)])
def test_a_burst_and_then_the_rate(rate: float, burst: int, at_once: int) -> None:
    now = Now()
    found = limit(now, rate, burst)
    assert passed(found, 100) == at_once
    for _ in range(20):
        now.s += 1 / rate
        assert passed(found, 5) == 1
    now.s += 1e6
    assert passed(found, 100) == at_once, "nothing is saved up beyond the burst"


def test_a_caller_is_told_when_to_come_back() -> None:
    now = Now()
    found = limit(now, 0.1, 2)
    passed(found, 2)
    with pytest.raises(TooManyRequests) as refused:
        found.charge("u")
    assert refused.value.retry_after_s == 10
    now.s += 9.99
    assert passed(found, 1) == 0
    now.s += 0.01
    assert passed(found, 1) == 1


def test_no_caller_pays_for_another_and_zero_is_no_limit() -> None:
    now = Now()
    found = limit(now, 1, 1)
    assert [passed(found, 5, who) for who in ("a", "b", "a")] == [1, 1, 0]
    assert passed(limit(now, 0, 0), 1000) == 1000
    assert len(limit(now, 0, 0)) == 0


def test_buckets_are_bounded_and_the_latest_are_kept() -> None:
    now = Now()
    found = limit(now, 1, 1, max_buckets=3)
    for who in ("a", "b", "c", "d"):
        found.charge(who)
    assert len(found) == 3
    assert passed(found, 1, "d") == 0


async def test_over_the_limit_is_a_429_of_the_keys_own_and_counted() -> None:
    async with client_of(shell(RATE_LIMIT="0.5", RATE_BURST="2", CORS_ORIGINS="*", **KEYS), "203.0.113.9") as client:
        statuses = [(await client.get("/who", headers={"X-API-Key": ONE})).status_code for _ in range(4)]
        assert statuses == [200, 200, 429, 429]
        answer = await client.get("/who", headers=issuer.bearer(ONE) | {"Origin": "https://app.example"})
        assert answer.status_code == 429, "however the key is sent"
        assert answer.json()["error"]["code"] == "too_many_requests"
        assert int(answer.headers["retry-after"]) in (1, 2)
        assert "Retry-After" in answer.headers["access-control-expose-headers"]
        assert (await client.get("/who", headers={"X-API-Key": OTHER})).status_code == 200
        assert (await client.get("/who", headers={"X-API-Key": "wrong"})).status_code == 401
    async with client_of(shell(RATE_LIMIT="0.5", RATE_BURST="2")) as client:
        assert {(await client.get("/who")).status_code for _ in range(9)} == {200}, "nobody in particular"


async def test_a_users_tokens_share_one_bucket() -> None:
    now = Now()
    settings = load({f"PINGFEED_{k}": v for k, v in (issuer.SHARED | {"RATE_LIMIT": "1", "RATE_BURST": "3"}).items()})
    metrics = Metrics()
    authenticator = Authenticator(settings, metrics=metrics, clock=lambda: NOW_MS, monotonic=lambda: now.s)

    async def admit(sub: str, name: str) -> str | None:
        headers = [(b"authorization", f"Bearer {issuer.shared(sub, jti=name)}".encode())]
        return (
            await authenticator.authenticate({"type": "http", "headers": headers, "client": ("203.0.113.9", 1)})
        ).subject

    assert [await admit("u1", str(i)) for i in range(3)] == ["u1"] * 3
    with pytest.raises(TooManyRequests):
        await admit("u1", "another")
    assert await admit("u2", "x") == "u2"
    now.s += 1
    assert await admit("u1", "another") == "u1"
    assert metrics.registry.get_sample_value("pingfeed_rate_limited_total") == 1
