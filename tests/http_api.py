"""Requests as an HTTP API of API Gateway hands them to a function (payload format 2.0), and its answers.

They carry the API key whose digest `AUTH` has.
"""

import base64
import hashlib
import json
from typing import Any

HOST = "abc123.execute-api.eu-west-1.amazonaws.com"
KEY = "k" * 32
AUTH = {"PINGFEED_AUTH": "api_key", "PINGFEED_API_KEY_HASHES": hashlib.sha256(KEY.encode()).hexdigest()}


def request(path: str, body: bytes | None = None, *, method: str = "POST", **headers: str) -> dict[str, Any]:
    """The event of one request. A body comes in base64 where it is not text, as the gateway does it."""
    text = _text(body, headers) if body is not None else None
    caller = {"sourceIp": "203.0.113.9", "userAgent": "an app"}
    forwarded = {"x-forwarded-for": "203.0.113.9", "x-forwarded-port": "443", "x-forwarded-proto": "https"}
    length = {"content-length": str(len(body))} if body is not None else {}
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"host": HOST, "content-type": "application/json", "x-api-key": KEY}
        | forwarded
        | length
        | {name.replace("_", "-").lower(): value for name, value in headers.items()},
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "abc123",
            "domainName": HOST,
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", **caller},
            "requestId": "JKJaXmPLvHcESHA=",
            "routeKey": "$default",
            "stage": "$default",
            "timeEpoch": 1795348800000,
        },
        "isBase64Encoded": body is not None and text is None,
    }
    if body is not None:
        event["body"] = base64.b64encode(body).decode() if text is None else text
    return event


def events(*events: Any, **headers: str) -> dict[str, Any]:
    """A request that sends these events."""
    return request("/track-events", json.dumps({"events": list(events)}).encode(), **headers)


def body_of(answer: dict[str, Any]) -> Any:
    """What an answer says."""
    text = answer["body"]
    return json.loads(base64.b64decode(text) if answer["isBase64Encoded"] else text)


def _text(body: bytes, headers: dict[str, str]) -> str | None:
    if "content_encoding" in headers:
        return None
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None
