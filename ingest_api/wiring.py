"""From settings to what the service works with. The only file here that knows which adapters there are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ingest_api.rejected import RejectedEvents, RejectedLog
from ingest_api.rejected_objects import RejectedObjects
from ingest_api.ship import Shipper
from ingest_api.signal_writer import SignalWriter
from pingfeed.adapters import registry
from pingfeed.core.clock import Clock, system_clock
from pingfeed.core.errors import SettingsError
from pingfeed.core.ids import IdMaker, uuid7
from pingfeed.core.urls import scheme_of
from pingfeed.ports import EventSink, Trending, UserSignals
from pingfeed.settings import PREFIX, Settings, url_path
from pingfeed.spool.delivery import Delivery
from pingfeed.spool.inline import DirectDelivery
from pingfeed.spool.spool import Spool
from pingfeed.spool.stats import Publisher

NEEDS: Final = ("events_url", "signals_url", "trending_url", "jwt_jwks")
"""The parts that have to answer before it starts (`pingfeed/checks.py`)."""

MAX_BYTES_BESIDE_SPOOL: Final = 256 << 20
"""Refused events that may wait on this machine for their lake: four full days."""

ON_LAMBDA: Final[Mapping[str, tuple[str, ...]]] = {
    "events_url": ("firehose",),
    "lake_url": ("s3",),
    "signals_url": ("dynamodb", "redis", "rediss"),
    "trending_url": ("snapshot", "redis", "rediss"),
}
"""What may be chosen there: a function's disk is its own, and goes with it."""

TIMEOUT_S: Final = 22
"""The least time-out of a function. At the worst it imports and connects (6 s), waits for the keys of tokens (6 s), for
the stream and the signals (`direct.WITHIN_S`, 5 s), and for what it refused to be kept (4 s)."""
FIREHOSE_CALL_S: Final = 2.0
"""How long a call of a function may take: one on a connection that died while it stood still is then made anew."""
FIREHOSE_PATIENCE_S: Final = 3.0
"""How long a function tries; both fit into `direct.WITHIN_S`, and so the answer can say why."""


@dataclass(frozen=True)
class Services:
    """What the routes stand on. `create_app` starts it and closes it."""

    delivery: Delivery | DirectDelivery
    sink: EventSink
    signals: UserSignals
    trending: Trending
    writer: SignalWriter
    rejected: RejectedEvents
    shipper: Shipper | None = None
    """Takes the refused events to a lake that is no folder of this machine."""
    publisher: Publisher | None = None
    """Puts the spool's account into the lake."""
    clock: Clock = system_clock
    make_id: IdMaker = uuid7


def build(settings: Settings) -> Services:
    """Open everything; Busy if another process has the spool, Unavailable if a store cannot be opened."""
    spool = Spool(settings.spool_dir / "ingest", max_bytes=settings.spool_max_mb << 20)
    sink = registry.open_event_sink(settings)
    signals, trending = registry.open_signals(settings), registry.open_trending(settings)
    writer = SignalWriter(signals, trending)
    rejected, shipper = _rejected(settings)
    return Services(
        delivery=Delivery(spool, sink, apply=writer, flush_seconds=settings.sink_flush_seconds),
        sink=sink,
        signals=signals,
        trending=trending,
        writer=writer,
        rejected=rejected,
        shipper=shipper,
        publisher=Publisher(spool.directory, registry.open_lake_objects(settings)),
    )


def build_for_lambda(settings: Settings) -> Services:
    """The same where nothing may run after the answer; opens no connection.

    SettingsError for a setting that needs a disk of its own.
    """
    _check_places(settings)
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


def _check_places(settings: Settings) -> None:
    for name, schemes in ON_LAMBDA.items():
        scheme, variable = scheme_of(getattr(settings, name)), PREFIX + name.upper()
        if scheme not in schemes:
            known = " or ".join(f"{known}://" for known in schemes)
            sentence = f"{variable} is {scheme}://, a place that a Lambda function loses; set {known}"
            raise SettingsError(sentence, field=variable)


def _rejected(settings: Settings) -> tuple[RejectedLog, Shipper | None]:
    """The log of refused events: in the lake's folder, or beside the spool and from there to the lake."""
    writer = uuid7(system_clock())
    if scheme_of(settings.lake_url) == "file":
        return RejectedLog(url_path(settings.lake_url) / "rejected", writer=writer), None
    # In the spool's own folder, which no other process works in.
    log = RejectedLog(settings.spool_dir / "ingest" / "rejected", writer=writer, max_bytes=MAX_BYTES_BESIDE_SPOOL)
    return log, Shipper(log, registry.open_lake_objects(settings))
