"""The checks that doctor, a start and /readyz share: which parts answer, and what follows if one does not."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pingfeed import checks
from pingfeed.core.errors import SettingsError, Unavailable
from pingfeed.core.ranker import Pointer, model_key, pointer_key, snapshot_key
from pingfeed.settings import Settings, load
from tests.servers import free_port
from tests.unit.loopback import serving
from tests.unit.small_model import manifest

NEEDS = ("signals_url", "trending_url")
NOW_MS = 1_795_348_800_000


class Part:
    """A port as far as the checks ask it: answers after some failures, or hangs."""

    def __init__(self, failures: int = 0, *, hangs: bool = False, error: Exception | None = None) -> None:
        self.failures, self.hangs, self.closed = failures, hangs, 0
        self.error = error or Unavailable("the store does not answer: ConnectionRefusedError")

    async def check(self) -> None:
        if self.hangs:
            await asyncio.sleep(3600)
        if self.failures:
            self.failures -= 1
            raise self.error

    async def close(self) -> None:
        self.closed += 1


Start = Callable[..., None]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return replace(
        load({"PINGFEED_HOME": str(tmp_path)}),
        signals_url="redis://me:hunter2@cache:6379/0",
        trending_url="snapshot://",
    )


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    """Wait for two parts, in place of signals and trending."""

    def wait(settings: Settings, signals: Part, trending: Part | None = None, within_s: float = 0.3) -> None:
        opened = {"signals_url": lambda _: signals, "trending_url": lambda _: trending or Part()}
        monkeypatch.setattr(checks, "PARTS", {**checks.PARTS, **opened})
        checks.wait_for_parts(settings, "ingest", NEEDS, within_s=within_s)

    return wait


@pytest.fixture
def answered(settings: Settings, start: Start) -> Settings:
    """Settings whose parts answered an earlier start."""
    start(settings, Part(), within_s=1)
    return settings


def test_parts_that_answer_are_closed_again(settings: Settings, start: Start) -> None:
    signals, trending = Part(), Part()
    start(settings, signals, trending, within_s=1)
    assert (signals.closed, trending.closed) == (1, 1)


def test_a_part_that_comes_up_a_moment_later_is_awaited(settings: Settings, start: Start) -> None:
    start(settings, Part(failures=2), within_s=30)


@pytest.mark.parametrize("part", [Part(failures=10_000), Part(hangs=True)], ids=["fails", "hangs"])
def test_a_part_that_never_answered_ends_the_start_with_its_variable(
    part: Part, settings: Settings, start: Start
) -> None:
    with pytest.raises(SettingsError) as rejected:
        start(settings, part)
    assert rejected.value.field == "PINGFEED_SIGNALS_URL"
    assert rejected.value.message.startswith("PINGFEED_SIGNALS_URL is redis://***@cache:6379/0: ")
    assert "hunter2" not in rejected.value.message
    assert part.closed == 1


def test_a_part_that_answered_before_has_an_outage_and_the_program_starts(answered: Settings, start: Start) -> None:
    start(answered, Part(failures=10_000))


def test_a_part_that_answered_at_another_address_ends_the_start(answered: Settings, start: Start) -> None:
    moved = replace(answered, signals_url="redis://cash:6379/0")
    with pytest.raises(SettingsError, match="PINGFEED_SIGNALS_URL is redis://cash"):
        start(moved, Part(failures=10_000))


def test_missing_credentials_end_every_start_at_once(answered: Settings, start: Start) -> None:
    error = SettingsError("no AWS credentials; set AWS_ACCESS_KEY_ID", field="AWS_ACCESS_KEY_ID")
    with pytest.raises(SettingsError, match="AWS_ACCESS_KEY_ID"):
        start(answered, Part(1, error=error), within_s=60)


def test_a_damaged_memory_only_makes_the_start_stricter_and_holds_no_password(answered: Settings, start: Start) -> None:
    memory = answered.home / "answered" / "ingest"
    assert "redis://***@cache" in memory.read_text()
    assert "hunter2" not in memory.read_text()
    memory.write_bytes(b"PINGFEED_SIG\xff")
    with pytest.raises(SettingsError):
        start(answered, Part(failures=10_000))


def test_keys_of_tokens_that_cannot_be_read_end_the_start(tmp_path: Path) -> None:
    settings = replace(load({"PINGFEED_HOME": str(tmp_path)}), jwt_jwks="http://127.0.0.1:1/jwks.json")
    checks.wait_for_parts(settings, "ingest", ("jwt_jwks",), within_s=0.3)  # no tokens, no keys
    with pytest.raises(SettingsError, match=r"PINGFEED_JWT_JWKS is http://127.0.0.1:1/jwks.json: did not") as rejected:
        checks.wait_for_parts(replace(settings, auth="jwt"), "ingest", ("jwt_jwks",), within_s=0.3)
    assert rejected.value.field == "PINGFEED_JWT_JWKS"


async def test_readyz_learns_why_each_part_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "READY_S", 0.05)
    parts = {"signals": Part(1), "spool": Part(), "trending": Part(hangs=True)}
    assert await checks.problems(**{name: part.check for name, part in parts.items()}) == {
        "signals": "the store does not answer: ConnectionRefusedError",
        "trending": "did not answer within 0.05 s",
    }


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"PINGFEED_HOME": str(tmp_path / "home")}


def examined(environ: dict[str, str]) -> dict[str, checks.Check]:
    return {check.name: check for check in checks.examine(environ, lambda: NOW_MS)}


def test_doctor_reports_a_wrong_setting_and_no_part(environ: dict[str, str]) -> None:
    found = examined(environ | {"PINGFEED_AUTH": "basic"})
    assert (found["settings"].ok, found["settings"].detail) == (
        False,
        "PINGFEED_AUTH must be none, api_key, jwt or gateway_jwt",
    )
    assert "signals" not in found


def test_doctor_checks_keys_of_tokens_where_tokens_are_used(environ: dict[str, str], tmp_path: Path) -> None:
    environ["PINGFEED_JWT_JWKS"] = str(tmp_path / "none.json")
    environ |= {"PINGFEED_JWT_AUDIENCE": "a", "PINGFEED_JWT_ISSUER": "i"}
    assert "jwt_jwks" not in examined(environ)
    assert "cannot be read" in examined(environ | {"PINGFEED_AUTH": "jwt"})["jwt_jwks"].detail


def test_doctor_finds_no_fault_with_a_fresh_installation(environ: dict[str, str]) -> None:
    found = examined(environ)
    failing = [c for c in found.values() if not c.ok and not c.name.startswith("port ")]
    assert failing == []
    assert found["model"].detail == "none is live: the fallback ranker serves"
    assert found["spool of ingest"].detail == "undelivered events: 0"
    ports = {"events", "artifacts", "candidates", "signals", "trending", "lake"}
    assert ports <= found.keys()


def test_doctor_fails_on_a_store_that_cannot_be_opened(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    environ["PINGFEED_SIGNALS_URL"] = f"sqlite://{tmp_path}/file/signals.sqlite"
    check = examined(environ)["signals"]
    assert (check.ok, check.needed) == (False, True)


def test_doctor_looks_at_a_cache_that_is_named_and_can_do_without_it(environ: dict[str, str]) -> None:
    assert "cache" not in examined(environ)
    environ["PINGFEED_CACHE_URL"] = "redis://:s3cr3t@127.0.0.1:1"
    found = examined(environ)
    assert (found["cache"].ok, found["cache"].needed) == (False, False)
    assert found["cache"].detail == "redis://***@127.0.0.1:1 cannot be reached"
    assert found["candidates"].ok


def test_doctor_names_what_is_not_installed(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "EXTRAS", {"batch": ("no_such_module", "json")})
    check = examined(environ)["packages of batch"]
    assert (check.ok, check.needed) == (False, False)
    assert check.detail == "missing: no_such_module; install pingfeed[batch]"


def put(environ: dict[str, str], key: str, value: Any) -> None:
    path = load(environ).home / "artifacts" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(value))


def test_doctor_reports_what_is_live_and_its_age(environ: dict[str, str]) -> None:
    digest = load(environ).features.digest
    put(environ, pointer_key(digest, "model"), Pointer("m1"))
    put(environ, model_key("m1", "manifest.json"), msgspec.Raw(manifest(created_ms=NOW_MS - 3 * 86_400_000)))
    put(environ, pointer_key(digest, "snapshot"), Pointer("77"))
    described = {"tick": 77, "digest": digest, "rows": 2000, "created_ms": NOW_MS - 240_000}
    put(environ, snapshot_key(77, "manifest.json"), described)
    found = examined(environ)
    assert found["model"].detail == "m1, trained 3 d ago"
    assert found["snapshot"].detail == "tick 77, 2,000 pings, made 4 min ago"


def test_doctor_fails_on_a_damaged_pointer(environ: dict[str, str]) -> None:
    put(environ, pointer_key(load(environ).features.digest, "model"), {"no": "pointer"})
    assert not examined(environ)["model"].ok


@pytest.mark.parametrize(
    ("body", "ok", "detail"),
    [(b"hello", False, "another program listens there"), (b'{"status":"ok"}', True, "ingest answers")],
)
def test_doctor_knows_a_service_from_another_program(body: bytes, ok: bool, detail: str) -> None:
    with serving(lambda _path: (200, body)) as port:
        check = checks.check_port("ingest", port)
    assert (check.ok, check.detail) == (ok, detail)


def test_doctor_finds_a_port_free() -> None:
    check = checks.check_port("feed", free_port())
    assert (check.ok, check.detail) == (True, "free for feed")
