"""The `pingfeed` command: lazy, one sentence an error, `serve` and `doctor`."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import pytest

from pingfeed import cli, doctor
from pingfeed.core.ranker import Manifest, Pointer, model_key, pointer_key, snapshot_key
from pingfeed.settings import FEED_PORT, INGEST_PORT, load

NOW_MS = 1_795_348_800_000


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment whose home is this test's own; the process has it too."""
    monkeypatch.setenv("PINGFEED_HOME", str(tmp_path / "home"))
    return {"PINGFEED_HOME": str(tmp_path / "home")}


def examined(environ: dict[str, str]) -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.examine(environ, lambda: NOW_MS)}


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(command.name in text for command in cli.COMMANDS)


def test_a_command_whose_package_is_absent_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = cli.Command("elsewhere", "not here", "no_such_package.commands:run")
    monkeypatch.setattr(cli, "COMMANDS", (*cli.COMMANDS, absent))
    assert "elsewhere" not in cli.build_parser().format_help()


def test_importing_the_command_imports_no_service() -> None:
    code = "import sys, pingfeed.cli, pingfeed.commands; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not [name for name in ("fastapi", "uvicorn", "pyarrow", "ingest_api.app", "feed_api.app") if name in loaded]


def test_serve_refuses_an_open_door_in_one_sentence(
    environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve", "ingest", "--host", "0.0.0.0"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("pingfeed serve: PINGFEED_AUTH is none")


def test_serve_names_a_wrong_setting(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PINGFEED_TICK_MINUTES", "soon")
    assert cli.main(["serve", "all"]) == 1
    assert "PINGFEED_TICK_MINUTES" in capsys.readouterr().err


def test_serve_knows_its_services(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["serve", "everything"])
    assert ended.value.code == 2


def test_doctor_is_content_with_a_fresh_installation(environ: dict[str, str]) -> None:
    checks = examined(environ)
    failing = [c for c in checks.values() if not c.ok and not c.name.startswith("port ")]
    assert failing == []
    assert checks["model"].detail == "none is live: the default ranker serves"
    assert checks["spool of ingest"].detail == "0 events wait for delivery"
    ports = {"events", "artifacts", "candidates", "signals", "trending", "lake"}
    assert ports <= checks.keys()


def test_doctor_prints_json(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["doctor", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed.keys() == {"checks"}
    assert all(check.keys() == {"name", "ok", "detail"} for check in printed["checks"])
    assert printed["checks"][0]["name"] == "settings"


def test_doctor_shows_settings_and_findings_to_a_person(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(doctor, "EXTRAS", {"batch": ("no_such_module",)})
    cli.main(["doctor"])
    text = capsys.readouterr().out
    assert "PINGFEED_TICK_MINUTES" in text
    assert "install pingfeed[batch]" in text
    assert "absent" in text


def test_doctor_shows_a_wrong_setting_and_fails(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PINGFEED_AUTH", "basic")
    assert cli.main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "PINGFEED_AUTH" in text
    assert "FAILS" in text


def test_doctor_fails_on_a_store_that_cannot_be_opened(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    environ["PINGFEED_SIGNALS_URL"] = f"sqlite://{tmp_path}/file/signals.sqlite"
    check = examined(environ)["signals"]
    assert (check.ok, check.needed) == (False, True)


def test_doctor_looks_at_a_cache_that_is_named_and_can_do_without_it(environ: dict[str, str]) -> None:
    assert "cache" not in examined(environ)
    environ["PINGFEED_CACHE_URL"] = "redis://:s3cr3t@127.0.0.1:1"
    checks = examined(environ)
    assert (checks["cache"].ok, checks["cache"].needed) == (False, False)
    assert checks["cache"].detail == "redis://***@127.0.0.1:1 cannot be reached"
    assert checks["candidates"].ok


def test_doctor_names_what_is_not_installed(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "EXTRAS", {"batch": ("no_such_module", "json")})
    check = examined(environ)["packages of batch"]
    assert (check.ok, check.needed) == (False, False)
    assert check.detail == "missing: no_such_module; install pingfeed[batch]"


def put(environ: dict[str, str], key: str, value: Any) -> None:
    path = load(environ).home / "artifacts" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(value))


def test_doctor_tells_what_is_live_and_how_old_it_is(environ: dict[str, str]) -> None:
    digest = load(environ).features.digest
    manifest = Manifest(
        model_id="m1",
        digest=digest,
        features=[],
        created_ms=NOW_MS - 3 * 86_400_000,
        cutoff_tick=1,
        trained_requests=1,
        held_out_requests=1,
        metrics={},
        params={},
        score_std=1.0,
        learned_realtime=[],
        live=True,
        gate="passed",
    )
    put(environ, pointer_key(digest, "model"), Pointer("m1"))
    put(environ, model_key("m1", "manifest.json"), manifest)
    put(environ, pointer_key(digest, "snapshot"), Pointer("77"))
    described = {"tick": 77, "digest": digest, "rows": 2000, "created_ms": NOW_MS - 240_000}
    put(environ, snapshot_key(77, "manifest.json"), described)
    checks = examined(environ)
    assert checks["model"].detail == "m1, trained 3 d ago"
    assert checks["snapshot"].detail == "tick 77, 2,000 pings, made 4 min ago"


def test_doctor_fails_on_a_damaged_pointer(environ: dict[str, str]) -> None:
    put(environ, pointer_key(load(environ).features.digest, "model"), {"no": "pointer"})
    assert not examined(environ)["model"].ok


class Stranger(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Healthy(Stranger):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"status":"ok"}')


def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.mark.parametrize(
    ("handler", "ok", "detail"),
    [(Stranger, False, "something else listens there"), (Healthy, True, "ingest answers")],
)
def test_doctor_tells_a_service_from_a_stranger(handler: type[BaseHTTPRequestHandler], ok: bool, detail: str) -> None:
    for port in served(handler):
        check = doctor.check_listener("ingest", port)
        assert (check.ok, check.detail) == (ok, detail)


def test_doctor_finds_a_port_free() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        check = doctor.check_listener("feed", reserved.getsockname()[1])
    assert (check.ok, check.detail) == (True, "free for feed")


def test_the_ports_are_those_of_the_contract() -> None:
    assert (INGEST_PORT, FEED_PORT) == (8000, 8001)
