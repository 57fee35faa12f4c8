"""`pingfeed serve`: both services at once, and what keeps a second process out."""

import os
import signal
import socket
from pathlib import Path

import httpx

from tests.journeys.conftest import Services, wait_for


def free_pair() -> int:
    """A port that is free, and the next one too."""
    for _ in range(50):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port
    raise AssertionError("no two neighbouring ports are free")


def is_healthy(port: int) -> bool:
    try:
        return bool(httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=5).json() == {"status": "ok"})
    except httpx.TransportError:
        return False


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_serve_all_runs_both_and_stops_both(services: Services) -> None:
    port = free_pair()
    both = services.launch("serve", "all", "--port", str(port), name="all")
    wait_for(lambda: is_healthy(port) and is_healthy(port + 1), "both services")
    children = children_of(both.process.pid)
    assert len(children) == 2
    assert both.stop() == 0
    assert not any(is_running(child) for child in children)


def test_when_one_service_ends_the_other_ends_too(services: Services) -> None:
    port = free_pair()
    both = services.launch("serve", "all", "--port", str(port), name="all")
    wait_for(lambda: is_healthy(port) and is_healthy(port + 1), "both services")
    ingest, feed = children_of(both.process.pid)
    os.kill(feed, signal.SIGKILL)
    assert both.process.wait(60) not in (0, None)
    assert not is_running(ingest)


def test_a_second_process_on_the_same_spool_is_told_so(services: Services) -> None:
    services.start("ingest")
    second = services.launch("serve", "ingest", "--port", "0", name="second")
    assert second.process.wait(60) == 1
    last = second.log_file.read_text().splitlines()[-1]
    assert last.startswith("pingfeed serve: another process uses the spool")


def test_a_port_that_is_taken_is_one_sentence(services: Services) -> None:
    ingest = services.start("ingest")
    port = ingest.url.rpartition(":")[2]
    second = services.launch("serve", "ingest", "--port", port, name="second")
    assert second.process.wait(60) == 1
    last = second.log_file.read_text().splitlines()[-1]
    assert last == f"pingfeed serve: cannot listen on 127.0.0.1:{port}: address already in use"


def test_the_settings_that_apply_are_logged_without_secrets(services: Services) -> None:
    digest = "ab" * 32
    operator = "cd" * 32
    ingest = services.start("ingest", OPERATOR_KEY_HASHES=operator, API_KEY_HASHES=digest, AUTH="api_key")
    (line,) = [line for line in ingest.log() if "settings" in line]
    assert line["settings"]["PINGFEED_AUTH"] == "api_key"
    text = ingest.log_file.read_text()
    assert operator not in text
    assert digest not in text


def test_doctor_finds_running_services(services: Services) -> None:
    ingest = services.start("ingest", SINK_FLUSH_SECONDS="900")
    event = {"event_type": "follow", "user_id": "u", "creator_id": "c"}
    httpx.post(f"{ingest.url}/track-event", json=event).raise_for_status()
    doctor = services.launch("doctor", "--json")
    doctor.process.wait(60)
    checks = {check["name"]: check for check in doctor.log()[-1]["checks"]}
    assert checks["spool of ingest"] == {"name": "spool of ingest", "ok": True, "detail": "undelivered events: 1"}
    assert checks["signals"]["ok"]
