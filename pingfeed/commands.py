"""`pingfeed serve` and `pingfeed doctor`."""

import importlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Final

from pingfeed import checks
from pingfeed.core.errors import InvalidInput, NotFound
from pingfeed.settings import FEED_PORT, INGEST_PORT, Settings, check_open, load, shown
from pingfeed.telemetry import configure_logs
from pingfeed.terminal import print_json, print_table
from pingfeed.web.workers import LOOK_S, Worker, stop_all, stop_requests, supervise

log = logging.getLogger(__name__)

PORTS: Final = {"ingest": INGEST_PORT, "feed": FEED_PORT}
_CHILD: Final = "import sys; from pingfeed.cli import main; sys.exit(main())"


def serve(*, service: str, host: str, port: int | None, workers: int, worker: Worker | None) -> int:
    """Run one service in this process, the feed in several, or both services in a process each."""
    settings = load(os.environ)
    check_open(settings, host)
    if service == "ingest" and workers > 1:
        raise InvalidInput("only the feed runs in several workers: ingest recognises duplicates in one process")
    configure_logs()
    if worker is None:
        log.info("settings that apply", extra={"settings": shown(settings)})
    if service == "all":
        first = INGEST_PORT if port is None else port
        feed_port = first + 1 if first else 0
        return _serve_all([_command("ingest", host, first), _command("feed", host, feed_port, workers)])
    chosen = PORTS[service] if port is None else port
    if workers > 1 and worker is None:
        return supervise(lambda one: _command(service, host, chosen, workers, one), host, chosen, workers)
    _serve_one(service, settings, host, chosen, worker)
    return 0


def _command(service: str, host: str, port: int, workers: int = 1, worker: Worker | None = None) -> list[str]:
    command = [sys.executable, "-c", _CHILD, "serve", service, "--host", host, "--port", str(port)]
    return [*command, "--workers", str(workers), *(["--worker", str(worker)] if worker else [])]


def _serve_one(service: str, settings: Settings, host: str, port: int, worker: Worker | None) -> None:
    """Serve in this process; the deployable is addressed by its name, because this package imports none."""
    try:
        server = importlib.import_module("pingfeed.web.server")
        wiring = importlib.import_module(f"{service}_api.wiring")
        app = importlib.import_module(f"{service}_api.app")
    except ModuleNotFoundError as error:
        raise NotFound(f"{error.name} is not installed; install pingfeed[{service}]") from error
    checks.wait_for_parts(settings, service, wiring.NEEDS)
    given = {"worker": worker} if worker else {}
    server.run(lambda: app.create_app(wiring.build(settings, **given), settings), host, port, worker)


def _serve_all(commands: Sequence[Sequence[str]]) -> int:
    """Each service in a process of its own; when one ends, or a signal asks to stop, all end."""
    asked = stop_requests()
    children = [subprocess.Popen(command) for command in commands]  # noqa: S603  # our own interpreter and arguments
    while not asked and all(child.poll() is None for child in children):
        time.sleep(LOOK_S)
    ended = [child.poll() for child in children]
    codes = stop_all(children)
    if asked:
        return 0
    log.error("a service ended by itself", extra={"exit_codes": ended})
    return next((code for code in codes if code), 1)


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
