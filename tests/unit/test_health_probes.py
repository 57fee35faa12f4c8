"""What a container's health check asks: a service whether it is ready, the scheduler whether ticks get done."""

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from batch.jobs.healthcheck import beat, silent
from pingfeed.web.healthcheck import unready
from tests.servers import free_port


class _Service(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/readyz" else 404)
        self.end_headers()
        self.wfile.write(b'{"status":"unready","detail":{"spool":"the disk is full"}}')

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), _Service) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_ready_service_is_healthy(port: int) -> None:
    assert unready(port) is None


def test_an_unready_service_says_why(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Service, "status", 503)
    assert "the disk is full" in (unready(port) or "")


def test_a_service_that_does_not_answer_is_not_healthy() -> None:
    assert "does not respond" in (unready(free_port()) or "")


def test_a_scheduler_is_healthy_until_three_ticks_were_missed(tmp_path: Path) -> None:
    assert silent(tmp_path, 15, 0) == "the scheduler has not started"
    beat(tmp_path)
    os.utime(tmp_path / "heartbeat", (1_000_000, 1_000_000))
    assert silent(tmp_path, 15, 1_000_000 + 45 * 60) is None
    assert silent(tmp_path, 15, 1_000_000 + 46 * 60) == "no tick has finished for 46 minutes"
