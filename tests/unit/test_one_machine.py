"""The files of deploy/one-machine agree with the code: units, Caddy's limits, metrics, settings."""

import json
import os
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import pytest

from pingfeed import cli
from pingfeed.core.errors import SettingsError
from pingfeed.core.events import MAX_BODY_BYTES
from pingfeed.settings import FEED_PORT, INGEST_PORT, load
from tests.servers import lacking
from tests.unit.loop_world import loop_world

FOLDER: Final = Path(__file__).parents[2] / "deploy" / "one-machine"
UNITS: Final = sorted(path.name for path in (FOLDER / "systemd").glob("pingfeed*.*") if path.is_file())
PROGRAMS: Final = [unit for unit in UNITS if unit.endswith(".service")]


def directives(file: Path) -> dict[str, list[str]]:
    """A unit's directives, each with its values."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for line in file.read_text().splitlines():
        if "=" in line and line[0] != "#":
            name, _, value = line.partition("=")
            found[name].append(value)
    return dict(found)


def service_of(name: str) -> dict[str, list[str]]:
    """A service's directives and those that all of them share."""
    own = directives(FOLDER / "systemd" / f"pingfeed-{name}.service")
    common = directives(FOLDER / "systemd" / "pingfeed-.service.d" / "common.conf")
    return {key: [*common.get(key, []), *own.get(key, [])] for key in common | own}


def settings_in(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if re.match(r"PINGFEED_\w+=", line))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file system with the units and a program where they expect it."""
    if shutil.which("systemd-analyze") is None:
        lacking("there is no systemd-analyze")
    root = tmp_path_factory.mktemp("root")
    shutil.copytree("/usr/lib/systemd/system", root / "usr/lib/systemd/system", symlinks=True)
    shutil.copytree(FOLDER / "systemd", root / "etc/systemd/system")
    program = root / "opt/pingfeed/current/bin/pingfeed"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return root


def analyze(root: Path, *words: str) -> None:
    command = ["systemd-analyze", f"--root={root}", "--no-pager", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, ""), done.stdout[-2000:]


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_no_fault_in_a_unit(root: Path, unit: str) -> None:
    analyze(root, "--man=no", "verify", unit)


@pytest.mark.parametrize("unit", PROGRAMS)
def test_a_service_may_do_little(root: Path, unit: str) -> None:
    analyze(root, "--offline=yes", "--threshold=30", "security", unit)


@pytest.mark.parametrize("unit", PROGRAMS)
def test_a_unit_runs_a_command_that_exists(unit: str) -> None:
    [line] = directives(FOLDER / "systemd" / unit)["ExecStart"]
    program, *words = line.split()
    assert program == "/opt/pingfeed/current/bin/pingfeed"
    command = cli._find(words)
    assert command is not None
    given = cli.parser_of(command).parse_args(words[len(command.name.split()) :])
    if command.name == "serve":
        assert given.host == "127.0.0.1"
        assert given.port == {"ingest": INGEST_PORT, "feed": FEED_PORT}[given.service]


def commands(folder: Path, **scripts: str) -> dict[str, str]:
    """An environment in which these commands are scripts."""
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}


def test_what_is_installed_can_be_read_by_its_user_whatever_the_umask(tmp_path: Path) -> None:
    """`install` ends where the virtual environment would be used."""
    environ = commands(tmp_path, id="", useradd="", install="", python3="umask >&2; exit 7")
    done = subprocess.run(
        [FOLDER / "install", "pingfeed-0.1.0-py3-none-any.whl"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        env=environ,
        umask=0o077,
    )
    assert (done.returncode, done.stderr.strip()) == (7, "0022")


def test_the_command_reads_settings_as_systemd_does(tmp_path: Path) -> None:
    settings = tmp_path / "env"
    settings.write_text(
        "# PINGFEED_FACETS=no\nPINGFEED_CORS_ORIGINS=https://a.example, https://b.example\n\n"
        'PINGFEED_JWT_SECRET=a$b&c`d;e==\nPINGFEED_FACETS=\nBACKUP_TO="/mnt/a disk"'
    )
    script = (FOLDER / "pingfeed").read_text().replace("/etc/pingfeed/env", str(settings))
    environ = commands(tmp_path, setpriv='shift 3; env -0; printf "%s" "$*"', command=script)
    done = subprocess.run(
        [tmp_path / "command", "doctor"], capture_output=True, text=True, timeout=60, check=True, env=environ
    )
    *variables, called = done.stdout.split("\0")
    found = dict(one.split("=", 1) for one in variables)
    assert called == "/opt/pingfeed/current/bin/pingfeed doctor"
    assert {name: value for name, value in found.items() if name.startswith(("PINGFEED_", "BACKUP"))} == {
        "PINGFEED_HOME": "/var/lib/pingfeed",
        "PINGFEED_CORS_ORIGINS": "https://a.example, https://b.example",
        "PINGFEED_JWT_SECRET": "a$b&c`d;e==",
        "PINGFEED_FACETS": "",
        "BACKUP_TO": "/mnt/a disk",
    }


def test_the_example_settings_lack_only_a_key_and_trust_no_local_caller() -> None:
    example = settings_in((FOLDER / "env.example").read_text())
    with pytest.raises(SettingsError, match="PINGFEED_API_KEY_HASHES is empty"):
        load(example)
    found = load(example | {"PINGFEED_API_KEY_HASHES": "a" * 64})
    assert not found.operator_loopback
    assert all(load(settings_in("\n".join(service_of(unit[9:-8]).get("Environment", [])))) for unit in PROGRAMS)


def test_caddy_limits_what_the_services_limit_and_reaches_both() -> None:
    text = (FOLDER / "Caddyfile").read_text()
    assert f"max_size {MAX_BODY_BYTES >> 20}MiB" in text
    assert set(re.findall(r"reverse_proxy (\S+)", text)) == {f"127.0.0.1:{INGEST_PORT}", f"127.0.0.1:{FEED_PORT}"}
    keepalive = re.search(r"keepalive (\d+)s", text)
    assert keepalive
    assert int(keepalive[1]) < 5, "the services close an idle connection after 5 s"


def test_the_machine_has_the_packages_of_every_url_that_its_settings_may_name() -> None:
    """Such as backups in S3; what a test environment from locks/local.txt has too is the same."""
    (lock,) = re.findall(r"locks/\w+\.txt", (FOLDER / "install").read_text())
    pins, local = (
        dict(re.findall(r"^([\w-]+)==(\S+)", (FOLDER.parents[1] / name).read_text(), re.MULTILINE))
        for name in (lock, "locks/local.txt")
    )
    assert {"aioboto3", "boto3", "redis"} <= pins.keys()
    assert local.items() <= pins.items()


def test_a_prefix_is_removed_once_so_that_no_path_passes_by_the_hidden_ones() -> None:
    """By the service, which knows it: it would take the rest of /ingest/ingest/metrics for one with the prefix."""
    assert "PINGFEED_ROOT_PATH=/ingest" in service_of("ingest")["Environment"]
    text = (FOLDER / "Caddyfile").read_text()
    assert "handle /ingest/* {" in text
    assert not re.search("handle_path|strip_prefix|rewrite", text)


def queries() -> list[tuple[str, str]]:
    board: Any = json.loads((FOLDER / "grafana.json").read_text())
    shown = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    alerts = re.findall(r"expr: (.+)", (FOLDER / "alerts.yml").read_text())
    return [("alerts.yml", one) for one in alerts] + [("grafana.json", one) for one in shown]


async def test_alerts_and_the_board_ask_for_metrics_and_labels_that_exist(tmp_path: Path) -> None:
    async with loop_world(tmp_path) as loop:
        await loop.feed("ann")
        pages = [(await client.get("/metrics")).text for client in (loop.ingest, loop.web)]
    known = {name for page in pages for name in re.findall(r"^# TYPE (\w+) ", page, re.MULTILINE)}
    known |= {name for page in pages for name in re.findall(r"^(pingfeed_\w+)[ {]", page, re.MULTILINE)}
    asked = queries()
    assert len(asked) > 20
    missing = {name for _, query in asked for name in re.findall(r"pingfeed_\w+", query)} - known
    assert not missing
    routes = {route for _, query in asked for route in re.findall(r'route=~?"([^"]+)"', query)}
    assert routes <= {"/get-feed", "/track-events?"}
