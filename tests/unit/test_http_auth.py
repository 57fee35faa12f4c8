"""Authentication: `none` and `api_key`, ordinary and operator keys, on and off loopback."""

import hashlib
import hmac

import pytest

from tests.unit.http_shell import ask, client_of, shell


def digest_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


KEY, OPERATOR_KEY = "k-ordinary", "k-operator"
HASHES = {"API_KEY_HASHES": f"{'0' * 64},{digest_of(KEY)}", "OPERATOR_KEY_HASHES": digest_of(OPERATOR_KEY)}
AWAY, HERE = "203.0.113.9", "127.0.0.1"
NO: dict[str, str] = {}
WRONG, ORDINARY, OPERATOR = {"X-API-Key": "x"}, {"X-API-Key": KEY}, {"X-API-Key": OPERATOR_KEY}


@pytest.mark.parametrize(
    ("auth", "peer", "headers", "status", "operator"),
    [
        ("none", HERE, NO, 200, True),
        ("none", AWAY, NO, 200, False),
        ("none", AWAY, WRONG, 200, False),
        ("none", AWAY, OPERATOR, 200, True),
        ("api_key", HERE, NO, 401, None),
        ("api_key", AWAY, NO, 401, None),
        ("api_key", AWAY, WRONG, 401, None),
        ("api_key", AWAY, ORDINARY, 200, False),
        ("api_key", HERE, ORDINARY, 200, True),
        ("api_key", AWAY, OPERATOR, 200, True),
        ("api_key", AWAY, {"Authorization": f"Bearer {KEY}"}, 200, False),
        ("api_key", AWAY, {"Authorization": f"bearer  {KEY} "}, 200, False),
        ("api_key", AWAY, {"Authorization": f"Basic {KEY}"}, 401, None),
        ("api_key", AWAY, {"Authorization": "Bearer "}, 401, None),
        ("api_key", AWAY, {"Authorization": f"Bearer {KEY}x"}, 401, None),
        ("api_key", AWAY, {"X-API-Key": HASHES["OPERATOR_KEY_HASHES"]}, 401, None),
    ],
)
async def test_a_caller_is_identified(
    auth: str, peer: str, headers: dict[str, str], status: int, operator: bool | None
) -> None:
    answer = await ask("GET", "/who", headers, peer=peer, AUTH=auth, **HASHES)
    assert answer.status_code == status
    if status == 200:
        assert answer.json() == {"subject": None, "operator": operator}
    else:
        assert answer.json()["error"]["code"] == "unauthenticated"


@pytest.mark.parametrize(
    ("auth", "peer", "headers", "status"),
    [
        ("none", HERE, NO, 200),
        ("api_key", HERE, NO, 200),
        ("none", AWAY, NO, 401),
        ("api_key", AWAY, NO, 401),
        ("api_key", AWAY, WRONG, 401),
        ("api_key", AWAY, ORDINARY, 403),
        ("api_key", AWAY, OPERATOR, 200),
        ("none", AWAY, OPERATOR, 200),
    ],
)
async def test_metrics_need_an_operator_key_off_loopback(
    auth: str, peer: str, headers: dict[str, str], status: int
) -> None:
    assert (await ask("GET", "/metrics", headers, peer=peer, AUTH=auth, **HASHES)).status_code == status


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"])
async def test_a_request_through_a_local_proxy_is_not_local(header: str) -> None:
    assert (await ask("GET", "/metrics", {header: "127.0.0.1"}, peer=HERE, **HASHES)).status_code == 401


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_health_needs_no_key(path: str) -> None:
    assert (await ask("GET", path, peer=AWAY, AUTH="api_key", **HASHES)).status_code == 200


async def test_a_key_of_any_bytes_is_rejected() -> None:
    assert (
        await ask("GET", "/who", {b"X-API-Key": b"\xff\xfe"}, peer=AWAY, AUTH="api_key", **HASHES)
    ).status_code == 401


@pytest.mark.parametrize(
    ("hashes", "old", "new"),
    [("old", 200, 401), ("old,new", 200, 200), ("new,old", 200, 200), ("new", 401, 200)],
)
@pytest.mark.parametrize("setting", ["API_KEY_HASHES", "OPERATOR_KEY_HASHES"])
async def test_a_key_is_rotated_without_downtime(setting: str, hashes: str, old: int, new: int) -> None:
    environ = {"API_KEY_HASHES": "0" * 64, setting: ",".join(map(digest_of, hashes.split(",")))}
    async with client_of(shell(AUTH="api_key", **environ), AWAY) as client:
        for key, status in (("old", old), ("new", new)):
            answer = await client.get("/who", headers={"X-API-Key": key})
            assert answer.status_code == status


async def test_every_known_digest_is_compared_whichever_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []
    compare = hmac.compare_digest

    def counted(one: bytes, other: bytes) -> bool:
        compared.append(other)
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    keys = [f"key-{i}" for i in range(5)]
    environ = {"API_KEY_HASHES": ",".join(map(digest_of, keys)), "OPERATOR_KEY_HASHES": digest_of(OPERATOR_KEY)}
    async with client_of(shell(AUTH="api_key", **environ), AWAY) as client:
        for key in (*keys, OPERATOR_KEY, "none of them"):
            compared.clear()
            await client.get("/who", headers={"X-API-Key": key})
            assert len(compared) == 6


async def test_rejected_callers_are_counted() -> None:
    async with client_of(shell(AUTH="api_key", **HASHES), HERE) as client:
        for headers in (NO, WRONG, ORDINARY):
            await client.get("/who", headers=headers)
        assert "pingfeed_auth_rejected_total 2.0" in (await client.get("/metrics")).text
