"""What the batch side makes of what landed: the night's clean table, against what the clients know."""

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

from batch.jobs.nightly import etl
from batch.wiring import build
from pingfeed.core.clock import DAY_MS, system_clock
from pingfeed.settings import load
from tests.faults.load import Answers
from tests.journeys.conftest import Services


def check_each_once(
    services: Services, answers: Answers, since_ms: int, environ: Mapping[str, str] = MappingProxyType({})
) -> dict[str, int]:
    """Every acknowledged event is in the clean table exactly once; counts of what landed and what was removed."""
    settings = load({**services.environ, **environ})
    tick = system_clock() // settings.tick_ms + 1
    batch = build(settings, clock=lambda: tick * settings.tick_ms, quiet=True)
    etl(batch, tick)
    ids = batch.tables.clean(since_ms // DAY_MS, tick * settings.tick_ms // DAY_MS)["event_id"].to_pylist()
    found = Counter(ids)
    acknowledged = set(answers.ids())
    assert acknowledged - found.keys() == set(), "acknowledged, and not in the clean table"
    assert len(acknowledged) == answers.events
    assert len(found) == len(ids), "there twice"
    return {"acknowledged": len(acknowledged), "in_the_clean_table": len(found)}
