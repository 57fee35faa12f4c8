"""The table of adapters and the settings' schemes are the same list."""

import importlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from pingfeed.adapters import registry
from pingfeed.core.errors import Rebuilding, SettingsError
from pingfeed.settings import SCHEMES, Settings, load

ADDRESSES = sorted({address for chosen in registry.ADAPTERS.values() for address in chosen.values()})


def test_every_scheme_has_its_adapter_and_no_adapter_is_out_of_reach() -> None:
    assert {name: tuple(chosen) for name, chosen in registry.ADAPTERS.items()} == dict(SCHEMES)


@pytest.mark.parametrize("address", ADDRESSES)
def test_every_address_is_a_class(address: str) -> None:
    module, _, name = address.partition(":")
    assert isinstance(getattr(importlib.import_module(f"pingfeed.adapters.{module}"), name), type)


@pytest.mark.parametrize(
    ("open_part", "variable", "value"),
    [
        (registry.open_candidates, "PINGFEED_CANDIDATES_URL", "dynamodb://pings?speed=1"),
        (registry.open_signals, "PINGFEED_SIGNALS_URL", "dynamodb://"),
        (registry.open_trending, "PINGFEED_TRENDING_URL", "snapshot://here"),
    ],
)
def test_an_adapter_that_rejects_its_url_names_the_variable(
    open_part: Callable[[Settings], object], variable: str, value: str
) -> None:
    with pytest.raises(SettingsError, match=f"^{variable}") as rejected:
        open_part(load({variable: value}))
    assert rejected.value.field == variable


async def test_the_embedded_defaults_open_and_answer(tmp_path: Path) -> None:
    settings = load({}, cwd=tmp_path)
    assert registry.open_lake(settings).list("") == []
    for name in ("artifacts", "event_sink", "candidates", "signals", "trending"):
        opened = getattr(registry, f"open_{name}")(settings)
        with suppress(Rebuilding):  # A new store of signals, until it is marked.
            await opened.check()
        await opened.close()
