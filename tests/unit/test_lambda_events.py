"""Every form of event is the same request to a service, under a stage and a base path too."""

import base64
import gzip
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pingfeed.web.lambda_shell import HttpFunction
from tests.event_shapes import SOURCES, STAGED, Sent, headers_of, published_at
from tests.http_api import KEY
from tests.unit.lambda_world import BAD, ENVIRON, LIKE, Context, lambda_world, open_feed

Call = Callable[..., dict[str, Any]]
SERVICES = ("ingest", "feed")
BODY = json.dumps({"events": [LIKE, BAD]}).encode()
PLACES = [("", ""), ("dev", ""), ("", "/shop"), ("dev", "/shop")]
"""Stage, and base path of a custom domain."""
FORMS: dict[str, dict[str, Any]] = {
    "text": {"body": BODY},
    "base64": {"body": BODY, "encoded": True},
    "gzip": {"body": gzip.compress(BODY), "encoded": True, "headers": {"Content-Encoding": "gzip"}},
    "cookies": {"body": BODY, "cookies": ("a=1", "b=2")},
}


@pytest.fixture
def call() -> Iterator[Call]:
    """Invokes a service with an event of a form: `call("feed", "ALB", "GET", "/get-feed", query=...)`."""
    functions: dict[str, Any] = {}
    with lambda_world() as world:

        def call(service: str, source: str, method: str, path: str, **more: Any) -> dict[str, Any]:
            if service not in functions:
                environ = {**ENVIRON, "PINGFEED_ROOT_PATH": more.get("base", "")}
                world.environ.update(environ)
                feed = HttpFunction("feed", open_feed, counted=(), timeout_s=5, environ=environ, new_loop=world._loop)
                functions.update(ingest=world.function, feed=feed)
            headers = {"X-API-Key": KEY, **more.pop("headers", {})}
            event = SOURCES[source](Sent(method, path, headers=headers, **more))
            answer: dict[str, Any] = functions[service](json.loads(json.dumps(event)), Context())
            text = base64.b64decode(answer["body"]) if answer["isBase64Encoded"] else answer["body"]
            is_json = "json" in headers_of(answer).get("content-type", "")
            return answer | {"body": json.loads(text) if is_json and text else text}

        yield call


def placed(test: Any) -> Any:
    """Each source in each place that it has."""
    cases = [
        pytest.param(source, stage, base, id=f"{source} {stage} {base}".strip())
        for source in SOURCES
        for stage, base in PLACES
        if not stage or source in STAGED
    ]
    return pytest.mark.parametrize(("source", "stage", "base"), cases)(test)


@placed
def test_events_are_accepted_in_each_form(call: Call, source: str, stage: str, base: str) -> None:
    for prefix in ("", "/ingest"):
        for form, more in FORMS.items():
            path = f"{prefix}/track-events"
            answer = call("ingest", source, "POST", path, stage=stage, base=base, **more)
            assert answer["statusCode"] == 202, (prefix, form)
            assert [one["code"] for one in answer["body"]["rejected"]] == ["missing_field"]
        answer = call(
            "ingest", source, "POST", f"{prefix}/track-event", query="x=1", body=b"{}", stage=stage, base=base
        )
        assert (answer["statusCode"], answer["body"]["error"]["field"]) == (422, "x"), "the query came with it"


@placed
def test_feeds_are_served(call: Call, source: str, stage: str, base: str) -> None:
    for more in ({}, {"cookies": ("a=1", "b=2")}):
        query = "user_id=ann%3A1%40x&limit=3"
        answer = call("feed", source, "GET", "/get-feed", query=query, stage=stage, base=base, **more)
        assert (answer["statusCode"], answer["body"]["user_id"]) == (200, "ann:1@x")
    answer = call("feed", source, "HEAD", "/get-feed", query="user_id=ann", stage=stage, base=base)
    assert (answer["statusCode"], answer["body"]) == (200, "")
    answer = call("feed", source, "GET", "/ingest/get-feed", query="user_id=ann", stage=stage, base=base)
    assert answer["statusCode"] == 404


@placed
@pytest.mark.parametrize("service", SERVICES)
def test_documentation_and_health_are_reached(call: Call, source: str, stage: str, base: str, service: str) -> None:
    for own in ("", "/ingest") if service == "ingest" else ("",):
        where = {"stage": stage, "base": base}
        assert call(service, source, "GET", f"{own}/healthz", **where)["body"] == {"status": "ok"}
        assert call(service, source, "GET", f"{own}/readyz", **where)["statusCode"] in (200, 503)
        page = call(service, source, "GET", f"{own}/docs", **where)
        assert page["statusCode"] == 200
        published = published_at(source, stage, base) + own
        found = re.search(r"url: '([^']+)'", str(page["body"]))
        assert found is not None
        assert found[1] == f"{published}/openapi.json"
        assert f'"{published}/static-offline-docs/swagger-ui.css"' in str(page["body"])
        document = call(service, source, "GET", f"{own}/openapi.json", **where)["body"]
        assert [one["url"] for one in document.get("servers", [{"url": ""}])] == [published]
        style = call(service, source, "GET", f"{own}/static-offline-docs/swagger-ui.css", **where)
        assert style["statusCode"] == 200
