"""Who gets in: `none` and `api_key`, ordinary and operator keys, on and off loopback."""

import hashlib
import hmac

import pytest

from tests.unit.http_shell import client_of, shell

KEY, OPERATOR_KEY = "k-ordinary", "k-operator"
HASHES = {
    "API_KEY_HASHES": f"{'0' * 64},{hashlib.sha256(KEY.encode()).hexdigest()}",
    "OPERATOR_KEY_HASHES": hashlib.sha256(OPERATOR_KEY.encode()).hexdigest(),
}
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
async def test_who_gets_in_and_as_what(
    auth: str, peer: str, headers: dict[str, str], status: int, operator: bool | None
) -> None:
    async with client_of(shell(AUTH=auth, **HASHES), peer) as client:
        answer = await client.get("/who", headers=headers)
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
    async with client_of(shell(AUTH=auth, **HASHES), peer) as client:
        assert (await client.get("/metrics", headers=headers)).status_code == status


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"])
async def test_a_proxy_on_this_machine_makes_nobody_an_operator(header: str) -> None:
    async with client_of(shell(**HASHES), HERE) as client:
        assert (await client.get("/metrics", headers={header: "127.0.0.1"})).status_code == 401


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_health_needs_no_key(path: str) -> None:
    async with client_of(shell(AUTH="api_key", **HASHES), AWAY) as client:
        assert (await client.get(path)).status_code == 200


async def test_keys_of_any_bytes_are_compared_not_crashed_on() -> None:
    async with client_of(shell(AUTH="api_key", **HASHES), AWAY) as client:
        assert (await client.get("/who", headers={b"X-API-Key": b"\xff\xfe"})).status_code == 401


def digest_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.mark.parametrize(
    ("hashes", "old", "new"),
    [("old", 200, 401), ("old,new", 200, 200), ("new,old", 200, 200), ("new", 401, 200)],
)
@pytest.mark.parametrize("setting", ["API_KEY_HASHES", "OPERATOR_KEY_HASHES"])
async def test_a_key_is_changed_without_a_gap(setting: str, hashes: str, old: int, new: int) -> None:
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


async def test_callers_that_are_turned_away_are_counted() -> None:
    async with client_of(shell(AUTH="api_key", **HASHES), HERE) as client:
        for headers in (NO, WRONG, ORDINARY):
            await client.get("/who", headers=headers)
        assert "pingfeed_auth_rejected_total 2.0" in (await client.get("/metrics")).text
