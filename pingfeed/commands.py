"""`pingfeed serve` and `pingfeed doctor`."""

import importlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Final

from pingfeed import checks
from pingfeed.core.errors import NotFound
from pingfeed.settings import FEED_PORT, INGEST_PORT, Settings, check_open, load, shown
from pingfeed.telemetry import configure_logs
from pingfeed.terminal import print_json, print_table

log = logging.getLogger(__name__)

PORTS: Final = {"ingest": INGEST_PORT, "feed": FEED_PORT}
_STOP_S: Final = 40
"""How long both services may take to stop: finish requests, then flush the spool (both bounded, and shorter)."""
_LOOK_S: Final = 0.2
_CHILD: Final = "import sys; from pingfeed.cli import main; sys.exit(main())"


def serve(*, service: str, host: str, port: int | None) -> int:
    """Run one service in this process, or both in a process each."""
    settings = load(os.environ)
    check_open(settings, host)
    configure_logs()
    log.info("settings that apply", extra={"settings": shown(settings)})
    if service == "all":
        first = INGEST_PORT if port is None else port
        return _serve_all([("ingest", first), ("feed", first + 1 if first else 0)], host)
    _serve_one(service, settings, host, PORTS[service] if port is None else port)
    return 0


def _serve_one(service: str, settings: Settings, host: str, port: int) -> None:
    """Serve in this process; the deployable is addressed by its name, because this package imports none."""
    try:
        server = importlib.import_module("pingfeed.web.server")
        wiring = importlib.import_module(f"{service}_api.wiring")
        app = importlib.import_module(f"{service}_api.app")
    except ModuleNotFoundError as error:
        raise NotFound(f"{error.name} is not installed; install pingfeed[{service}]") from error
    checks.wait_for_parts(settings, service, wiring.NEEDS)
    server.run(lambda: app.create_app(wiring.build(settings), settings), host, port)


def _serve_all(services: Sequence[tuple[str, int]], host: str) -> int:
    """Each service in a process of its own; when one ends, or a signal asks to stop, all end."""
    children: list[subprocess.Popen[bytes]] = []
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _frame: asked.append(got))
    for service, port in services:
        command = [sys.executable, "-c", _CHILD, "serve", service, "--host", host, "--port", str(port)]
        children.append(subprocess.Popen(command))  # noqa: S603  # our own interpreter, our own arguments
    while not asked and all(child.poll() is None for child in children):
        time.sleep(_LOOK_S)
    ended = [child.poll() for child in children]
    codes = [_stopped(child) for child in children]
    if asked:
        return 0
    log.error("a service ended by itself", extra={"exit_codes": ended})
    return next((code for code in codes if code), 1)


def _stopped(child: "subprocess.Popen[bytes]") -> int:
    if child.poll() is None:
        child.terminate()
    try:
        return child.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        log.error("a service did not stop in time and is killed", extra={"pid": child.pid})
        child.kill()
        return child.wait()


def doctor(*, json: bool) -> int:
    """Print every check; 1 if one fails that the installation needs."""
    found = checks.examine(os.environ)
    if json:
        print_json({"checks": [{"name": one.name, "ok": one.ok, "detail": one.detail} for one in found]})
    else:
        _print_tables(found)
    return int(any(check.needed and not check.ok for check in found))


def _print_tables(found: Sequence[checks.Check]) -> None:
    from rich.text import Text

    if found[0].ok:
        print_table(("setting", "value"), list(shown(load(os.environ)).items()))
    marks = {"ok": "green", "FAILS": "red", "absent": "yellow"}
    words = ["ok" if check.ok else "FAILS" if check.needed else "absent" for check in found]
    rows = [(Text(word, marks[word]), one.name, one.detail) for word, one in zip(words, found, strict=True)]
    print_table(("", "check", "finding"), rows)
