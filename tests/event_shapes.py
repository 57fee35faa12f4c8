"""The events in which AWS hands an HTTP request to a function, by what is in front of it and where it is published.

shape("ALB, multi-value", "GET", "/get-feed", query="user_id=a%3Ab", base="/shop")
"""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl

DOMAIN: Final = "abc123.execute-api.eu-west-1.amazonaws.com"
OWN_DOMAIN: Final = "api.example.com"
CALLER: Final = {"sourceIp": "203.0.113.9", "userAgent": "an app"}


@dataclass(frozen=True)
class Sent:
    """What a client sends. `stage` is a named one of API Gateway, `base` the path that a custom domain maps."""

    method: str
    path: str
    query: str = ""
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cookies: tuple[str, ...] = ()
    encoded: bool = False
    """Whether the body comes in base64."""
    stage: str = ""
    base: str = ""

    @property
    def domain(self) -> str:
        return OWN_DOMAIN if self.base else DOMAIN

    def common(self) -> dict[str, Any]:
        body = self.body or b""
        return {
            "isBase64Encoded": self.encoded,
            "body": None if self.body is None else (base64.b64encode(body) if self.encoded else body).decode(),
        }

    def all_headers(self, *, cookie: bool = True) -> dict[str, str]:
        forwarded = {"x-forwarded-for": "203.0.113.9", "x-forwarded-port": "443", "x-forwarded-proto": "https"}
        cookies = {"cookie": "; ".join(self.cookies)} if cookie and self.cookies else {}
        return {"Host": self.domain, "Content-Type": "application/json", **forwarded, **cookies, **self.headers}

    def single(self, *, decoded: bool = True) -> dict[str, str]:
        return {name: value[-1] for name, value in self.multiple(decoded=decoded).items()}

    def multiple(self, *, decoded: bool = True) -> dict[str, list[str]]:
        """The query's parameters; a load balancer does not decode them."""
        found: dict[str, list[str]] = {}
        pairs = parse_qsl(self.query) if decoded else [tuple(part.split("=")) for part in self.query.split("&") if part]
        for name, value in pairs:
            found.setdefault(name, []).append(value)
        return found


def _rest(sent: Sent) -> dict[str, Any]:
    """A REST API: the path has no stage, absent parts are null."""
    path = sent.base + sent.path
    return {
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": sent.method,
        "headers": sent.all_headers(),
        "multiValueHeaders": None,
        "queryStringParameters": sent.single() or None,
        "multiValueQueryStringParameters": None,
        "pathParameters": {"proxy": sent.path[1:]},
        "requestContext": {
            "stage": sent.stage or "prod",
            "path": path if sent.base else f"/{sent.stage or 'prod'}{path}",
            "httpMethod": sent.method,
            "identity": CALLER,
            "domainName": sent.domain,
        },
        **sent.common(),
    }


def _rest_multi(sent: Sent) -> dict[str, Any]:
    headers = {name: [value] for name, value in sent.all_headers().items()}
    return _rest(sent) | {"multiValueHeaders": headers, "multiValueQueryStringParameters": sent.multiple() or None}


def _http_v1(sent: Sent) -> dict[str, Any]:
    """An HTTP API with payload format 1.0: the path has the stage."""
    event = _rest_multi(sent)
    path = sent.base + (f"/{sent.stage}" if sent.stage else "") + sent.path
    context = event["requestContext"] | {"stage": sent.stage or "$default", "path": path}
    return event | {"version": "1.0", "path": path, "requestContext": context}


def _http_v2(sent: Sent) -> dict[str, Any]:
    path = sent.base + (f"/{sent.stage}" if sent.stage else "") + sent.path
    event = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": sent.query,
        "headers": {name.lower(): value for name, value in sent.all_headers(cookie=False).items()},
        "requestContext": {
            "stage": sent.stage or "$default",
            "http": {"method": sent.method, "path": path, "protocol": "HTTP/1.1", **CALLER},
            "domainName": sent.domain,
        },
        **sent.common(),
    }
    return {name: value for name, value in event.items() if value is not None} | (
        {"cookies": list(sent.cookies)} if sent.cookies else {}
    )


def _function_url(sent: Sent) -> dict[str, Any]:
    event = _http_v2(sent)
    return event | {"requestContext": event["requestContext"] | {"domainName": "abc.lambda-url.eu-west-1.on.aws"}}


def _alb(sent: Sent) -> dict[str, Any]:
    return {
        "requestContext": {"elb": {"targetGroupArn": "arn:aws:elasticloadbalancing:eu-west-1:1:targetgroup/a/b"}},
        "httpMethod": sent.method,
        "path": sent.base + sent.path,
        "queryStringParameters": sent.single(decoded=False),
        "headers": {name.lower(): value for name, value in sent.all_headers().items()},
        **sent.common(),
        "body": sent.common()["body"] or "",
    }


def _alb_multi(sent: Sent) -> dict[str, Any]:
    event = _alb(sent)
    del event["queryStringParameters"]
    return event | {
        "headers": {},
        "multiValueHeaders": {name.lower(): [value] for name, value in sent.all_headers().items()},
        "multiValueQueryStringParameters": sent.multiple(decoded=False),
    }


SOURCES: Final[Mapping[str, Callable[[Sent], dict[str, Any]]]] = {
    "REST API": _rest,
    "REST API, multi-value": _rest_multi,
    "HTTP API, payload 1.0": _http_v1,
    "HTTP API, payload 2.0": _http_v2,
    "function URL": _function_url,
    "ALB": _alb,
    "ALB, multi-value": _alb_multi,
}
STAGED: Final = ("REST API", "REST API, multi-value", "HTTP API, payload 1.0", "HTTP API, payload 2.0")
"""What has stages."""


def headers_of(answer: Mapping[str, Any]) -> dict[str, str]:
    """An answer's headers, whichever form they are in."""
    several = {name: values[0] for name, values in answer.get("multiValueHeaders", {}).items()}
    return {**several, **answer.get("headers", {})}


def published_at(source: str, stage: str, base: str) -> str:
    """The prefix under which a client reaches the API."""
    return base or (f"/{stage}" if stage and source in STAGED else "/prod" if source.startswith("REST") else "")
