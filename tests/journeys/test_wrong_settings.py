"""A wrong setting ends the start with one sentence that names the variable, and nothing printed holds a secret."""

import base64
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from pingfeed import checks, cli
from tests.servers import free_port

SECRET: Final = "xK9-planted.Secret!77"
URL_SECRET: Final = "xK9-planted.Secret%2177"
CODE: Final = "import sys; from pingfeed.cli import main; sys.exit(main())"
PROGRAMS: Final = {
    "ingest": ("serve", "ingest", "--port", "0"),
    "feed": ("serve", "feed", "--port", "0"),
    "batch": ("schedule", "--once"),
    "provision": ("provision", "--wait", "0"),
}
AWS: Final = {
    "AWS_ACCESS_KEY_ID": "planted-id",
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_MAX_ATTEMPTS": "1",
}
NO_CREDENTIALS: Final = {
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nowhere",
    "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
}
CLOSED: Final = f"127.0.0.1:{free_port()}"


def ended(home: Path, words: Sequence[str], environ: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """A program that must end by itself, with only these settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PINGFEED_", "AWS_"))}
    return subprocess.run(
        [sys.executable, "-c", CODE, *words],
        env={**kept, "PINGFEED_HOME": str(home), **environ},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


WRONG: Final = [
    # Everywhere: what no program could work with.
    ("ingest", {"PINGFEED_SIGNALS_URL": f"mysql://user:{URL_SECRET}@host/db"}, "PINGFEED_SIGNALS_URL"),
    ("feed", {"PINGFEED_SIGNALS_URL": f"redis://:{URL_SECRET}@cache:6379x/0"}, "PINGFEED_SIGNALS_URL"),
    ("ingest", {"PINGFEED_TRENDING_URL": f"redis://:{URL_SECRET}@/0"}, "PINGFEED_TRENDING_URL"),
    ("ingest", {"PINGFEED_SIGNALS_URL": f"redis://:{SECRET}@h:70000"}, "PINGFEED_SIGNALS_URL"),
    ("ingest", {"PINGFEED_SIGNALS_URL": f"redis://{CLOSED}/0?password={URL_SECRET}"}, "PINGFEED_SIGNALS_URL"),
    ("feed", {"PINGFEED_SIGNALS_URL": f"{SECRET}@host"}, "PINGFEED_SIGNALS_URL"),
    ("batch", {"PINGFEED_LAKE_URL": "s3://"}, "PINGFEED_LAKE_URL"),
    ("provision", {"PINGFEED_ARTIFACTS_URL": "s3:///prefix"}, "PINGFEED_ARTIFACTS_URL"),
    ("feed", {"PINGFEED_CANDIDATES_URL": "dynamodb://"}, "PINGFEED_CANDIDATES_URL"),
    ("ingest", {"PINGFEED_EVENTS_URL": "firehose://"}, "PINGFEED_EVENTS_URL"),
    ("ingest", {"PINGFEED_API_KEY_HASHES": SECRET}, "PINGFEED_API_KEY_HASHES"),
    ("feed", {"PINGFEED_CORS_ORIGINS": f"https://user:{SECRET}@app.example"}, "PINGFEED_CORS_ORIGINS"),
    ("feed", {"PINGFEED_AUTH": SECRET}, "PINGFEED_AUTH"),
    ("feed", {"PINGFEED_TICK_MINUTES": SECRET}, "PINGFEED_TICK_MINUTES"),
    ("ingest", {"PINGFEED_JWT_SECRTE": SECRET}, "PINGFEED_JWT_SECRTE"),
    # A part that does not answer, and never has.
    ("ingest", {"PINGFEED_SIGNALS_URL": f"redis://:{URL_SECRET}@{CLOSED}/0"}, "PINGFEED_SIGNALS_URL"),
    ("feed", {"PINGFEED_TRENDING_URL": f"redis://me:{URL_SECRET}@no-such-host.invalid/0"}, "PINGFEED_TRENDING_URL"),
    ("feed", {"PINGFEED_CACHE_URL": f"redis://:{URL_SECRET}@{CLOSED}/0"}, "PINGFEED_CACHE_URL"),
    ("feed", {"PINGFEED_CANDIDATES_URL": "dynamodb://packets", **AWS, "AWS_ENDPOINT_URL": f"http://{CLOSED}"},
     "PINGFEED_CANDIDATES_URL"),
    ("ingest", {"PINGFEED_EVENTS_URL": "firehose://events", "PINGFEED_LAKE_URL": "s3://bucket/lake", **AWS,
                "AWS_ENDPOINT_URL": f"http://{CLOSED}"}, "PINGFEED_EVENTS_URL"),
    ("batch", {"PINGFEED_LAKE_URL": "s3://bucket/lake", **AWS, "AWS_ENDPOINT_URL": f"http://{CLOSED}"},
     "PINGFEED_LAKE_URL"),
    ("provision", {"PINGFEED_CANDIDATES_URL": "dynamodb://packets", **AWS, "AWS_ENDPOINT_URL": f"http://{CLOSED}"},
     "PINGFEED_CANDIDATES_URL"),
    # Without credentials.
    ("feed", {"PINGFEED_CANDIDATES_URL": "dynamodb://packets", **NO_CREDENTIALS}, "AWS_ACCESS_KEY_ID"),
    ("provision", {"PINGFEED_CANDIDATES_URL": "dynamodb://packets", **NO_CREDENTIALS}, "AWS_ACCESS_KEY_ID"),
]  # fmt: skip


@pytest.fixture
def handlers() -> Iterator[None]:
    """A program configures the root logger; the tests after this one have their own again."""
    root = logging.getLogger()
    kept = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = kept


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(("program", "environ", "variable"), WRONG)
def test_a_wrong_setting_ends_the_start_in_a_sentence_that_names_it(
    program: str,
    environ: dict[str, str],
    variable: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in [name for name in os.environ if name.startswith(("PINGFEED_", "AWS_"))]:
        monkeypatch.delenv(name)
    for name, value in {"PINGFEED_HOME": str(tmp_path / "home"), **environ}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(checks, "START_S", 3.0)
    assert cli.main(PROGRAMS[program]) == 1
    out, err = capsys.readouterr()
    said = [line for line in err.splitlines() if not line.startswith("{")]
    assert len(said) == 1, err
    assert said[0].startswith(f"pingfeed {PROGRAMS[program][0]}: ")
    assert variable in said[0]
    assert_no_secret(out + err)


def test_doctor_and_the_log_of_a_start_mask_passwords(tmp_path: Path, open_redis: str) -> None:
    environ = {
        "PINGFEED_SIGNALS_URL": f"redis://me:{URL_SECRET}@{CLOSED}/0",
        "PINGFEED_AUTH": "jwt",
        "PINGFEED_JWT_SECRET": SECRET * 2,
        "PINGFEED_JWT_AUDIENCE": "pingfeed",
        "PINGFEED_JWT_ISSUER": "https://login.example",
        "PINGFEED_TRENDING_URL": f"redis://me:{URL_SECRET}@{open_redis}/0",
        **AWS,
    }
    for words in (("doctor",), ("doctor", "--json"), PROGRAMS["ingest"]):
        done = ended(tmp_path / "home", words, environ)
        assert done.returncode == 1
        assert_no_secret(done.stdout + done.stderr)
        assert "***@" in done.stdout + done.stderr


@pytest.fixture
def open_redis() -> Iterator[str]:
    """Something that listens, and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def assert_no_secret(text: str) -> None:
    """Neither as it is, nor escaped for a URL or JSON, nor in base64, nor a piece of it."""
    encoded = base64.b64encode(SECRET.encode()).decode().rstrip("=")
    for form in (SECRET, URL_SECRET, encoded, "planted.Secret"):
        assert form not in text
