"""`pingfeed serve` and `pingfeed doctor`."""

import argparse
import importlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from pingfeed import checks as examination
from pingfeed.core.errors import NotFound
from pingfeed.settings import FEED_PORT, INGEST_PORT, Settings, check_open, load, shown
from pingfeed.telemetry import configure_logs

log = logging.getLogger(__name__)

PORTS: Final = {"ingest": INGEST_PORT, "feed": FEED_PORT}
_STOP_S: Final = 40
"""How long both services may take to stop: finish requests, then flush the spool (both bounded, and shorter)."""
_LOOK_S: Final = 0.2
_CHILD: Final = "import sys; from pingfeed.cli import main; sys.exit(main())"


def serve(parser: argparse.ArgumentParser) -> None:
    """Configure `pingfeed serve`."""
    parser.add_argument("service", choices=[*PORTS, "all"])
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, help=f"default: {INGEST_PORT} for ingest, {FEED_PORT} for the feed; all: the feed is one up"
    )
    parser.set_defaults(run=_serve)


def _serve(options: argparse.Namespace) -> int:
    settings = load(os.environ)
    check_open(settings, options.host)
    configure_logs()
    log.info("settings that apply", extra={"settings": shown(settings)})
    if options.service == "all":
        port = INGEST_PORT if options.port is None else options.port
        return _serve_all([("ingest", port), ("feed", port + 1 if port else 0)], options.host)
    port = PORTS[options.service] if options.port is None else options.port
    _serve_one(options.service, settings, options.host, port)
    return 0


def _serve_one(service: str, settings: Settings, host: str, port: int) -> None:
    """Serve in this process; the deployable is addressed by its name, for this package knows none."""
    try:
        server = importlib.import_module("pingfeed.web.server")
        wiring = importlib.import_module(f"{service}_api.wiring")
        app = importlib.import_module(f"{service}_api.app")
    except ModuleNotFoundError as error:
        raise NotFound(f"{error.name} is not installed; install pingfeed[{service}]") from error
    examination.wait_for_parts(settings, service, wiring.NEEDS)
    server.run(lambda: app.create_app(wiring.build(settings), settings), host, port)


def _serve_all(services: Sequence[tuple[str, int]], host: str) -> int:
    """Each service in a process of its own; when one ends, or a stop is asked for, all end."""
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


def doctor(parser: argparse.ArgumentParser) -> None:
    """Configure `pingfeed doctor`."""
    parser.add_argument("--json", action="store_true", help='print {"checks":[{"name","ok","detail"}]}')
    parser.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    checks = examination.examine(os.environ)
    if options.json:
        shown_checks = [{"name": c.name, "ok": c.ok, "detail": c.detail} for c in checks]
        sys.stdout.write(msgspec.json.encode({"checks": shown_checks}).decode() + "\n")
    else:
        _print_tables(checks)
    return int(any(check.needed and not check.ok for check in checks))


def _print_tables(checks: Sequence[examination.Check]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    found = Table("", "check", "finding")
    for check in checks:
        mark = "[green]ok[/]" if check.ok else "[red]FAILS[/]" if check.needed else "[yellow]absent[/]"
        found.add_row(mark, check.name, escape(check.detail))
    if checks[0].ok:
        table = Table("setting", "value")
        for name, value in shown(load(os.environ)).items():
            table.add_row(name, escape(value))
        console.print(table)
    console.print(found)
