"""The check before a start: what has never answered ends it, what has answered before is taken for an outage."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pingfeed import startup
from pingfeed.adapters import registry
from pingfeed.core.errors import SettingsError, Unavailable
from pingfeed.settings import Settings, load

NEEDS = ("signals_url", "trending_url")


class Part:
    """A port as far as a start looks at it: answers after some failures, or hangs."""

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


Use = Callable[[Part, Part], None]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return replace(load({"PINGFEED_HOME": str(tmp_path)}), signals_url="redis://me:hunter2@cache:6379/0")


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Put two parts in the place of signals and trending."""

    def put(signals: Part, trending: Part) -> None:
        opened = {"signals_url": lambda _: signals, "trending_url": lambda _: trending}
        monkeypatch.setattr(registry, "ASYNC_PORTS", opened)

    return put


def test_parts_that_answer_are_closed_again(settings: Settings, use: Use) -> None:
    signals, trending = Part(), Part()
    use(signals, trending)
    startup.check(settings, "ingest", NEEDS, within_s=1)
    assert (signals.closed, trending.closed) == (1, 1)


def test_a_part_that_comes_up_a_moment_later_is_waited_for(settings: Settings, use: Use) -> None:
    use(Part(failures=2), Part())
    startup.check(settings, "ingest", NEEDS, within_s=30)


@pytest.mark.parametrize("part", [Part(failures=10_000), Part(hangs=True)], ids=["refuses", "hangs"])
def test_a_part_that_never_answered_ends_the_start_by_its_variable(part: Part, settings: Settings, use: Use) -> None:
    use(part, Part())
    with pytest.raises(SettingsError) as refused:
        startup.check(settings, "ingest", NEEDS, within_s=0.3)
    assert refused.value.field == "PINGFEED_SIGNALS_URL"
    assert refused.value.message.startswith("PINGFEED_SIGNALS_URL is redis://***@cache:6379/0: ")
    assert "hunter2" not in refused.value.message
    assert part.closed == 1


def test_a_part_that_answered_before_is_done_without(settings: Settings, use: Use) -> None:
    use(Part(), Part())
    startup.check(settings, "ingest", NEEDS, within_s=1)
    use(Part(failures=10_000), Part())
    startup.check(settings, "ingest", NEEDS, within_s=0.3)


def test_the_same_part_at_another_address_never_answered(settings: Settings, use: Use) -> None:
    use(Part(), Part())
    startup.check(settings, "ingest", NEEDS, within_s=1)
    use(Part(failures=10_000), Part())
    moved = replace(settings, signals_url="redis://cash:6379/0")
    with pytest.raises(SettingsError, match="PINGFEED_SIGNALS_URL is redis://cash"):
        startup.check(moved, "ingest", NEEDS, within_s=0.3)


def test_missing_credentials_end_every_start_at_once(settings: Settings, use: Use) -> None:
    use(Part(), Part())
    startup.check(settings, "ingest", NEEDS, within_s=1)
    use(Part(1, error=SettingsError("no AWS credentials; set AWS_ACCESS_KEY_ID", field="AWS_ACCESS_KEY_ID")), Part())
    with pytest.raises(SettingsError, match="AWS_ACCESS_KEY_ID"):
        startup.check(settings, "ingest", NEEDS, within_s=60)


def test_a_damaged_memory_only_means_a_stricter_start(settings: Settings, use: Use) -> None:
    use(Part(), Part())
    startup.check(settings, "ingest", NEEDS, within_s=1)
    (settings.home / "reached" / "ingest.json").write_bytes(b"{torn")
    use(Part(failures=10_000), Part())
    with pytest.raises(SettingsError):
        startup.check(settings, "ingest", NEEDS, within_s=0.3)
    assert "hunter2" not in (settings.home / "reached" / "ingest.json").read_text()


def test_keys_of_tokens_that_cannot_be_read_end_the_start(tmp_path: Path) -> None:
    settings = replace(load({"PINGFEED_HOME": str(tmp_path)}), jwt_jwks="http://127.0.0.1:1/jwks.json")
    startup.check(settings, "ingest", ("jwt_jwks",), within_s=0.3)  # no tokens, no keys
    with pytest.raises(SettingsError, match=r"PINGFEED_JWT_JWKS is http://127.0.0.1:1/jwks.json: did not") as refused:
        startup.check(replace(settings, auth="jwt"), "ingest", ("jwt_jwks",), within_s=0.3)
    assert refused.value.field == "PINGFEED_JWT_JWKS"
