"""From settings to the opened services and their metrics. The only file here that imports adapters."""

from dataclasses import dataclass
from typing import Final

from ingest_api.rejected import MAX_BYTES_A_DAY, RejectedEvents, RejectedObjects, RejectedSpool
from ingest_api.signal_writer import SignalWriter
from pingfeed.adapters import registry
from pingfeed.core.clock import Clock, SteadyClock, system_clock
from pingfeed.core.errors import SettingsError
from pingfeed.core.ids import IdMaker, uuid7
from pingfeed.core.urls import scheme_of
from pingfeed.ports import Artifacts, EventSink, Trending, UserSignals
from pingfeed.settings import PREFIX, Settings, check_remote
from pingfeed.spool.delivery import Delivery
from pingfeed.spool.inline import DirectDelivery
from pingfeed.spool.spool import Spool
from pingfeed.spool.stats import REJECTED, Publisher
from pingfeed.web.metrics import Metrics

NEEDS: Final = ("events_url", "signals_url", "trending_url", "jwt_jwks")
"""The parts that have to answer before the service starts (`pingfeed/checks.py`)."""

REJECTED_FLUSH: Final = 6
"""Rejected events go to the lake this many times less often than accepted ones."""

TIMEOUT_S: Final = 22
"""The minimum timeout of a function. At worst it imports and connects (6 s), waits for the keys of tokens (6 s), for
the stream and the signals (`inline.WITHIN_S`, 5 s), and for its rejected events to be stored (4 s)."""
FIREHOSE_CALL_S: Final = 2.0
"""The timeout of one call; one on a connection that died while the function was frozen is then repeated."""
FIREHOSE_PATIENCE_S: Final = 3.0
"""How long a function retries; both fit into `inline.WITHIN_S`, so that the response can say why it failed."""


@dataclass(frozen=True)
class Services:
    """What the routes use. `create_app` starts and closes it."""

    delivery: Delivery | DirectDelivery
    sink: EventSink
    signals: UserSignals
    trending: Trending
    writer: SignalWriter
    rejected: RejectedEvents
    publisher: Publisher | None = None
    """Publishes the spool's stats into the lake."""
    clock: Clock = system_clock
    make_id: IdMaker = uuid7


def build(settings: Settings) -> Services:
    """Open everything; Busy if another process has the spool, Unavailable if a store cannot be opened."""
    spool = Spool(settings.spool_dir / "ingest", max_bytes=settings.spool_max_mb << 20)
    sink = registry.open_event_sink(settings)
    signals, trending = registry.open_signals(settings), registry.open_trending(settings)
    writer = SignalWriter(signals, trending)
    rejected = Spool(settings.spool_dir / "ingest" / REJECTED, max_bytes=MAX_BYTES_A_DAY)
    return Services(
        delivery=Delivery(spool, sink, apply=writer, flush_seconds=settings.sink_flush_seconds),
        sink=sink,
        signals=signals,
        trending=trending,
        writer=writer,
        rejected=RejectedSpool(
            rejected,
            registry.open_lake_objects(settings),
            flush_seconds=REJECTED_FLUSH * settings.sink_flush_seconds,
        ),
        publisher=Publisher(spool.directory, registry.open_lake_objects(settings)),
        clock=SteadyClock(),
    )


def build_for_lambda(settings: Settings) -> Services:
    """The same for Lambda, where nothing may run after the response; opens no connection.

    SettingsError for a setting that needs a disk.
    """
    check_remote(settings, ("events_url", "lake_url", "signals_url", "trending_url"))
    limits = {"read_s": FIREHOSE_CALL_S, "patience_s": FIREHOSE_PATIENCE_S}
    sink = registry.open_event_sink(settings, **limits)
    signals, trending = registry.open_signals(settings), registry.open_trending(settings)
    writer = SignalWriter(signals, trending)
    return Services(
        delivery=DirectDelivery(sink, apply=writer),
        sink=sink,
        signals=signals,
        trending=trending,
        writer=writer,
        rejected=RejectedObjects(registry.open_lake_objects(settings), writer=uuid7(system_clock())),
    )


def open_keys_copy(settings: Settings) -> tuple[Artifacts, str]:
    """Store and name of the S3 object in PINGFEED_JWT_JWKS; SettingsError where keys are not to be copied."""
    if scheme_of(settings.jwt_jwks) != "s3" or not settings.jwt_jwks_source:
        sentence = f"{PREFIX}JWT_JWKS must be s3://bucket/key and {PREFIX}JWT_JWKS_SOURCE a URL to copy the keys"
        raise SettingsError(sentence, field=f"{PREFIX}JWT_JWKS")
    folder, _, name = settings.jwt_jwks.rpartition("/")
    return registry.open_objects_at(folder), name


class Counters:
    """What the service itself counts, besides what delivery counts (all `pingfeed_*`)."""

    def __init__(self, metrics: Metrics) -> None:
        self.duplicates = metrics.counter("events_duplicate", "Duplicate events, acknowledged but not stored again")
        self.rejected = metrics.counter("events_rejected", "Rejected events, by reason", ("code",))
        self.context_dropped = metrics.counter(
            "context_dropped",
            "Optional fields of accepted events that were not kept",
            ("field",),
        )
        self.rejected_dropped = metrics.counter("events_rejected_dropped", "Rejected events that were not kept")


def watch(metrics: Metrics, services: Services) -> None:
    """Show what the services count for themselves."""
    found = services.delivery
    metrics.counted("events_accepted", "Events made durable", lambda: found.counters.accepted)
    metrics.counted("events_delivered", "Events that the sink took", lambda: found.counters.delivered)
    metrics.counted("delivery_failures", "Failed deliveries of a batch", lambda: found.counters.delivery_failures)
    metrics.counted("signals_given_up", "Events whose signals cannot be applied", lambda: found.counters.apply_given_up)
    metrics.counted("signal_failures", "Failed attempts to apply signals", lambda: found.counters.apply_failures)
    metrics.counted("trending_failures", "Failed updates of trending", lambda: services.writer.trending_failures)
    metrics.gauge("spool_events", "Events that wait for delivery").set_function(lambda: found.counters.spooled_events)
    metrics.gauge("spool_bytes", "Bytes that wait for delivery").set_function(lambda: found.counters.spooled_bytes)
    metrics.gauge("spool_unapplied", "Segments with unapplied signals").set_function(lambda: found.counters.unapplied)
    metrics.counted("spool_damage", "Damaged places in the spool's files", lambda: found.counters.spooled_damage)
    metrics.watch_sink(lambda: found.sink_counters)
