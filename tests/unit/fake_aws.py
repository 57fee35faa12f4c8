"""AWS on loopback, as far as ingest's function calls it: Firehose, DynamoDB (empty), S3 objects, and credentials.

Every call is kept with its connection and access key, to see what was shared with another process.
"""

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pingfeed.core.events import Row, decode_rows

ENDPOINT = "AWS_ENDPOINT_URL"


@dataclass(frozen=True)
class Call:
    """One request: the operation (or method and path), the client's port, and the access key that signed it."""

    what: str
    port: int
    key: str
    body: bytes


@dataclass
class FakeAws:
    """`objects` are those of S3 by path. The first credentials are valid for `first_s`, later ones for an hour."""

    port: int = 0
    first_s: float = 3600
    objects: dict[str, bytes] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    expiries: dict[str, float] = field(default_factory=dict)
    """When each issued access key expires."""

    @property
    def environ(self) -> dict[str, str]:
        url = f"http://127.0.0.1:{self.port}"
        return {ENDPOINT: url, "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{url}/credentials", "AWS_REGION": "us-east-1"}

    def rows(self) -> list[Row]:
        """What Firehose has taken."""
        records = [r for call in self.calls if call.what == "PutRecordBatch" for r in json.loads(call.body)["Records"]]
        return [row for record in records for row in decode_rows(base64.b64decode(record["Data"]))]

    def answer(self, call: Call) -> bytes | None:
        """The response's body; None for an absent object."""
        self.calls.append(call)
        what = call.what
        if what == "GET /credentials":
            return self._issue()
        if what.startswith("PUT "):
            self.objects[what[4:]] = call.body
            return b""
        if what.startswith("GET "):
            return self.objects.get(what[4:])
        answers: dict[str, dict[str, Any]] = {
            "PutRecordBatch": {"FailedPutCount": 0, "RequestResponses": []},
            "DescribeDeliveryStream": {"DeliveryStreamDescription": {"DeliveryStreamStatus": "ACTIVE"}},
            "BatchGetItem": {"Responses": {}, "UnprocessedKeys": {}},
        }
        found = answers.get(what, {})
        if what == "PutRecordBatch":
            found["RequestResponses"] = [{"RecordId": "1"} for _ in json.loads(call.body)["Records"]]
        return json.dumps(found).encode()

    def _issue(self) -> bytes:
        name = f"AKIA{len(self.expiries)}"
        self.expiries[name] = time.time() + (3600 if self.expiries else self.first_s)
        until = datetime.fromtimestamp(self.expiries[name], UTC).isoformat()
        return json.dumps({"AccessKeyId": name, "SecretAccessKey": "s", "Token": "t", "Expiration": until}).encode()


@contextmanager
def fake_aws(**options: Any) -> Iterator[FakeAws]:
    fake = FakeAws(**options)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if (
                self.headers.get("X-Amz-Decoded-Content-Length")
                or self.headers.get("Content-Encoding") == "aws-chunked"
            ):
                body = body.split(b"\r\n")[1]
            operation = self.headers.get("X-Amz-Target", "").rpartition(".")[2]
            _, _, signed = self.headers.get("Authorization", "").partition("Credential=")
            call = Call(operation or f"{self.command} {self.path}", self.client_address[1], signed.split("/")[0], body)
            found = fake.answer(call)
            self.send_response(200 if found is not None else 404)
            self.send_header("Content-Length", str(len(found or b"")))
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.end_headers()
            self.wfile.write(found or b"")

        do_GET = do_PUT = do_POST = _do  # noqa: N815  # as the base class names them

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        fake.port = server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield fake
        finally:
            server.shutdown()
