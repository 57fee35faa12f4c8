"""Builds the services that the settings describe. The only file of the feed that knows which adapters exist."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from feed_api.stages.log_served import ServedActs
from pingfeed.adapters import registry
from pingfeed.core.clock import Clock, SteadyClock, system_clock
from pingfeed.core.errors import PingfeedError
from pingfeed.core.events import Row
from pingfeed.core.ids import IdMaker, uuid7
from pingfeed.core.retry import Backoff
from pingfeed.ports import Artifacts, CandidateStore, Trending, UserSignals
from pingfeed.settings import Settings, check_remote
from pingfeed.spool.delivery import Delivery
from pingfeed.spool.inline import DirectDelivery
from pingfeed.spool.spool import Spool
from pingfeed.spool.stats import Publisher
from pingfeed.web.workers import Worker, left_spools, spool_name

log = logging.getLogger(__name__)

NEEDS: Final = ("events_url", "artifacts_url", "candidates_url", "cache_url", "signals_url", "trending_url", "jwt_jwks")
"""The parts that must respond before the service starts (`pingfeed/checks.py`)."""
TIMEOUT_S: Final = 15
"""The minimum timeout of a function: for a request that waits for keys of tokens (6 s) and a new version (3 s, twice),
besides its budget."""
FIREHOSE_S: Final = 1.0
"""When a call that came late for its feed ends, and how long a throttled one is repeated."""
FIREHOSE_BACKOFF: Final = Backoff(first_s=0.005, longest_s=0.1)
"""Short enough to repeat a call on a dead connection within the budget."""


@dataclass(frozen=True)
class Services:
    """The feed's dependencies. `create_app` starts and closes them."""

    candidates: CandidateStore
    signals: UserSignals
    trending: Trending
    artifacts: Artifacts
    delivery: Delivery | DirectDelivery
    acts: ServedActs
    publisher: Publisher | None = None
    """Publishes the spool's stats to the lake."""
    left: Sequence[tuple[Delivery, Publisher]] = ()
    """Deliver the spools of workers that are no longer started."""
    worker: Worker | None = None
    """This process among the workers of its port."""
    clock: Clock = system_clock
    make_id: IdMaker = uuid7
    refresh_s: float = 2.0
    """Interval between reads of the model and snapshot pointers."""
    trending_s: float = 3.0
    """Interval between reads of the trending lists."""
    monotonic: Callable[[], float] = time.monotonic
    """Seconds that never go back, of the clock that stamps a request's arrival; measures its budget."""

    @property
    def in_request(self) -> bool:
        """Whether everything happens inside requests, as nothing runs between them (Lambda)."""
        return isinstance(self.delivery, DirectDelivery)


def _delivery(settings: Settings, acts: ServedActs, folder: Path) -> tuple[Delivery, Publisher]:
    spool = Spool(folder, max_bytes=settings.spool_max_mb << 20)
    sink = registry.open_event_sink(settings)
    delivery = Delivery(spool, sink, apply=acts.apply, flush_seconds=settings.sink_flush_seconds)
    return delivery, Publisher(spool.directory, registry.open_lake_objects(settings))


def _left(settings: Settings, acts: ServedActs, workers: int) -> Iterator[tuple[Delivery, Publisher]]:
    for folder in left_spools(settings.spool_dir, "feed", workers):
        try:
            yield _delivery(settings, acts, folder)
        except PingfeedError as error:  # In use, or unreadable: it waits for a later start.
            log.warning("a removed worker's spool is not delivered", extra={"reason": error.message})


def build(settings: Settings, worker: Worker | None = None) -> Services:
    """Open everything; Busy if another process has the spool, Unavailable if a store cannot be opened."""
    number, workers = (worker.number, worker.of) if worker else (1, 1)
    signals = registry.open_signals(settings)
    acts = ServedActs(signals)
    delivery, publisher = _delivery(settings, acts, settings.spool_dir / spool_name("feed", number))
    return Services(
        candidates=registry.open_candidates(settings),
        signals=signals,
        trending=registry.open_trending(settings),
        artifacts=registry.open_artifacts(settings),
        delivery=delivery,
        acts=acts,
        publisher=publisher,
        left=list(_left(settings, acts, workers)) if number == 1 else (),
        worker=worker,
        clock=SteadyClock(),
    )


def build_for_lambda(settings: Settings) -> Services:
    """The same for Lambda, where nothing may run after the response; opens no connection.

    SettingsError for a setting that needs a disk.
    """
    check_remote(settings, ("events_url", "artifacts_url", "candidates_url", "signals_url", "trending_url"))
    signals = registry.open_signals(settings)
    sink = registry.open_event_sink(settings, read_s=FIREHOSE_S, patience_s=FIREHOSE_S, backoff=FIREHOSE_BACKOFF)
    return Services(
        candidates=registry.open_candidates(settings),
        signals=signals,
        trending=registry.open_trending(settings),
        artifacts=registry.open_artifacts(settings),
        delivery=DirectDelivery(sink, apply=_nothing),
        acts=ServedActs(signals),
    )


async def _nothing(rows: Sequence[Row]) -> None:
    """The acts of served feeds are applied by `ServedLog`, which reports it in `degraded`."""
