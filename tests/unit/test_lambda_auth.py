"""Who may call a function: only the user that a verified token names, and holders of keys."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from pingfeed.web.lambda_shell import HttpFunction
from tests.http_api import KEY, body_of, events, request
from tests.unit import issuer
from tests.unit.lambda_world import ENVIRON, LIKE, Context, lambda_world, open_feed

ON_LAMBDA = {"AWS_LAMBDA_FUNCTION_NAME": "a-function"}
GATEWAY = ENVIRON | ON_LAMBDA | {"PINGFEED_AUTH": "gateway_jwt"}
TOKENS = (
    ENVIRON
    | ON_LAMBDA
    | {
        "PINGFEED_AUTH": "jwt",
        "PINGFEED_JWT_SECRET": issuer.SECRET,
        "PINGFEED_JWT_AUDIENCE": issuer.AUDIENCE,
        "PINGFEED_JWT_ISSUER": issuer.ISSUER,
    }
)


def as_user(mode: str, event: dict[str, Any], sub: Any) -> dict[str, Any]:
    """The event with a token of this user, as each mode has it; without our key."""
    headers = {name: value for name, value in event["headers"].items() if name != "x-api-key"}
    if mode == "jwt":
        return event | {"headers": headers | {"authorization": f"Bearer {issuer.shared(sub)}"}}
    authorizer = {"jwt": {"claims": {"sub": sub, "aud": "app"}, "scopes": None}}
    return event | {"headers": headers, "requestContext": event["requestContext"] | {"authorizer": authorizer}}


@pytest.fixture
def functions(mode: str) -> Iterator[dict[str, Any]]:
    environ = TOKENS if mode == "jwt" else GATEWAY
    with lambda_world(environ) as world:
        feed = HttpFunction("feed", open_feed, counted=(), timeout_s=5, environ=environ, new_loop=world._loop)
        yield {"ingest": world.function, "feed": feed}


def feed_of(user: str) -> dict[str, Any]:
    return request("/get-feed", method="GET") | {"rawQueryString": f"user_id={user}"}


@pytest.mark.parametrize("mode", ["jwt", "gateway_jwt"])
def test_a_user_acts_for_no_other(functions: dict[str, Any], mode: str) -> None:
    for service, event, good in (("ingest", events(LIKE), 202), ("feed", feed_of("ann"), 200)):
        for sub, status in (("ann", good), ("eve", 403)):
            answer = functions[service](as_user(mode, event, sub), Context())
            assert answer["statusCode"] == status, (service, sub, body_of(answer))


@pytest.mark.parametrize("mode", ["gateway_jwt"])
@pytest.mark.parametrize("sub", [None, "", 5, ["ann"], "a b", "x" * 129])
def test_claims_without_a_user_are_a_401(functions: dict[str, Any], sub: Any) -> None:
    answer = functions["ingest"](as_user("gateway_jwt", events(LIKE), sub), Context())
    assert (answer["statusCode"], answer["headers"]["www-authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize("mode", ["gateway_jwt"])
def test_no_header_names_the_user(functions: dict[str, Any]) -> None:
    event = as_user("gateway_jwt", events(LIKE), "ann")
    del event["requestContext"]["authorizer"]
    for name, value in (
        ("authorization", f"Bearer {issuer.shared('ann')}"),
        ("x-amzn-oidc-identity", "ann"),
        ("x-apigateway-event", json.dumps({"requestContext": {"authorizer": {"jwt": {"claims": {"sub": "ann"}}}}})),
        ("x-jwt-claims", json.dumps({"sub": "ann"})),
    ):
        answer = functions["ingest"](event | {"headers": event["headers"] | {name: value}}, Context())
        assert answer["statusCode"] == 401, name


@pytest.mark.parametrize("mode", ["gateway_jwt"])
def test_a_rest_api_authorizer_with_another_form_is_a_401(functions: dict[str, Any]) -> None:
    """The context of a Lambda authorizer has values that its author chose."""
    event = as_user("gateway_jwt", events(LIKE), "ann")
    for authorizer in ({"sub": "ann"}, {"lambda": {"sub": "ann"}}, {"jwt": json.dumps({"claims": {"sub": "ann"}})}):
        context = event["requestContext"] | {"authorizer": authorizer}
        assert functions["ingest"](event | {"requestContext": context}, Context())["statusCode"] == 401


def test_a_key_acts_for_all_beside_tokens() -> None:
    with lambda_world(GATEWAY) as world:
        event = as_user("gateway_jwt", events(LIKE), "eve")
        keyed = event | {"headers": event["headers"] | {"x-api-key": KEY}}
        assert world(keyed)["statusCode"] == 202


def test_no_caller_of_a_function_is_local() -> None:
    """The address is the gateway's word, and operators see internals."""
    with lambda_world() as world:
        event = request("/metrics", method="GET", x_api_key="")
        event["requestContext"]["http"]["sourceIp"] = "127.0.0.1"
        event["headers"] = {"host": "localhost"}
        assert world(event)["statusCode"] == 401
