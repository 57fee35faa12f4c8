"""The keys of tokens in an S3 object: who reads them, and the function that copies them there."""

import logging
from collections.abc import Iterator

import pytest

from ingest_api.lambda_handler import refresh_keys
from pingfeed.core.errors import FormatError, SettingsError, Unavailable
from pingfeed.settings import load
from pingfeed.web import jwks
from pingfeed.web.jwt import Tokens
from pingfeed.web.metrics import Metrics
from tests.unit import issuer
from tests.unit.fake_aws import FakeAws, fake_aws
from tests.unit.issuer import now_s, token
from tests.unit.loopback import serving

URL = "s3://a-bucket/keys/jwks.json"
OBJECT = "/a-bucket/keys/jwks.json"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAws]:
    with fake_aws() as fake:
        for name, value in fake.environ.items():
            monkeypatch.setenv(name, value)
        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        yield fake
        root.handlers[:], root.level = handlers, level


async def test_tokens_are_verified_by_the_keys_in_the_object(aws: FakeAws) -> None:
    now = now_s()
    environ = {"AUTH": "jwt", "JWT_JWKS": URL, "JWT_AUDIENCE": issuer.AUDIENCE, "JWT_ISSUER": issuer.ISSUER}
    settings = load({f"PINGFEED_{name}": value for name, value in environ.items()})
    tokens = Tokens(settings, clock=lambda: now * 1000, monotonic=lambda: now, metrics=Metrics())

    async def subject() -> str:
        return await tokens.subject(token().encode(), str(now).encode())

    with pytest.raises(Unavailable):
        await subject()
    assert tokens.problem == "the key set cannot be read: the object does not exist"
    aws.objects[OBJECT] = issuer.jwks("rsa-1")
    now += int(jwks.RETRY_S)
    await tokens.warm_up()
    assert await subject() == "u1"
    assert tokens.problem is None
    aws.objects.clear()
    now += int(jwks.MAX_AGE_S)
    assert await subject() == "u1", "the last set serves"


def test_the_function_copies_the_keys_and_keeps_the_copy_if_it_cannot(
    aws: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: dict[str, tuple[int, bytes]] = {"/jwks": (200, issuer.jwks("rsa-1", "ec-1"))}
    with serving(lambda path: served[path]) as port:
        monkeypatch.setenv("PINGFEED_JWT_JWKS", URL)
        monkeypatch.setenv("PINGFEED_JWT_JWKS_SOURCE", f"http://127.0.0.1:{port}/jwks")
        assert refresh_keys({}, None) == {"keys": 2}
        assert aws.objects == {OBJECT: issuer.jwks("rsa-1", "ec-1")}
        for status, body, error in ((500, b"", Unavailable), (200, b'{"keys":[]}', FormatError)):
            served["/jwks"] = status, body
            with pytest.raises(error, match=r"^PINGFEED_JWT_JWKS_SOURCE .*; the copy stays as it is"):
                refresh_keys({}, None)
        assert aws.objects == {OBJECT: issuer.jwks("rsa-1", "ec-1")}


@pytest.mark.parametrize(
    "environ", [{}, {"JWT_JWKS": "https://login.example/jwks", "JWT_JWKS_SOURCE": "https://a.b/c"}]
)
def test_the_function_needs_an_object_and_a_source(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(f"PINGFEED_{name}", value)
    with pytest.raises(SettingsError, match="PINGFEED_JWT_JWKS must be s3://bucket/key"):
        refresh_keys({}, None)
