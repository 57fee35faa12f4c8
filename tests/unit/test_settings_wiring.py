"""The table of adapters and the settings' schemes are the same list."""

import importlib
from pathlib import Path

import pytest

from pingfeed.adapters import registry
from pingfeed.core.errors import SettingsError
from pingfeed.settings import SCHEMES, load

ADDRESSES = sorted({address for chosen in registry.ADAPTERS.values() for address in chosen.values()})


def test_every_scheme_has_its_adapter_and_no_adapter_is_out_of_reach() -> None:
    assert {name: tuple(chosen) for name, chosen in registry.ADAPTERS.items()} == dict(SCHEMES)


@pytest.mark.parametrize("address", ADDRESSES)
def test_every_address_is_a_class(address: str) -> None:
    module, _, name = address.partition(":")
    assert isinstance(getattr(importlib.import_module(f"pingfeed.adapters.{module}"), name), type)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PINGFEED_CANDIDATES_URL", "dynamodb://pings?speed=1"),
        ("PINGFEED_SIGNALS_URL", "dynamodb://"),
        ("PINGFEED_TRENDING_URL", "snapshot://here"),
    ],
)
def test_an_adapter_that_refuses_its_url_names_the_variable(variable: str, value: str) -> None:
    opens = {
        "PINGFEED_CANDIDATES_URL": registry.open_candidates,
        "PINGFEED_SIGNALS_URL": registry.open_signals,
        "PINGFEED_TRENDING_URL": registry.open_trending,
    }
    with pytest.raises(SettingsError) as refused:
        opens[variable](load({variable: value}))
    assert refused.value.field == variable
    assert refused.value.message.startswith(variable)


async def test_the_embedded_defaults_open_and_answer(tmp_path: Path) -> None:
    settings = load({}, cwd=tmp_path)
    assert registry.open_lake(settings).list("") == []
    for opened in (
        registry.open_artifacts(settings),
        registry.open_event_sink(settings),
        registry.open_candidates(settings),
        registry.open_signals(settings),
        registry.open_trending(settings),
    ):
        await opened.check()
        await opened.close()
