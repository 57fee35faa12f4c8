"""What a container's health check asks: a service whether it is ready, the scheduler whether ticks get done."""

import os
from pathlib import Path

from batch.jobs.healthcheck import beat, silent
from pingfeed.web.healthcheck import unready
from tests.servers import free_port
from tests.unit.loopback import serving


def test_a_ready_service_is_healthy_and_an_unready_one_says_why() -> None:
    status = 200
    body = b'{"status":"unready","detail":{"spool":"the disk is full"}}'
    with serving(lambda path: (status if path == "/readyz" else 404, body)) as port:
        assert unready(port) is None
        status = 503
        assert "the disk is full" in (unready(port) or "")


def test_a_service_that_does_not_answer_is_not_healthy() -> None:
    assert "does not respond" in (unready(free_port()) or "")


def test_a_scheduler_is_healthy_until_three_ticks_were_missed(tmp_path: Path) -> None:
    assert silent(tmp_path, 15, 0) == "the scheduler has not started"
    beat(tmp_path)
    os.utime(tmp_path / "heartbeat", (1_000_000, 1_000_000))
    assert silent(tmp_path, 15, 1_000_000 + 45 * 60) is None
    assert silent(tmp_path, 15, 1_000_000 + 46 * 60) == "no tick has finished for 46 minutes"
