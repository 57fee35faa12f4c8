"""From settings to what the service works with. The only file here that knows which adapters there are."""

from dataclasses import dataclass
from typing import Final

from ingest_api.apply import SignalWriter
from ingest_api.rejected import RejectedLog
from ingest_api.ship import Shipper
from pingfeed import wiring
from pingfeed.clock import Clock, IdMaker, system_clock, uuid7
from pingfeed.delivery.delivery import Delivery
from pingfeed.delivery.publish import Publisher
from pingfeed.delivery.spool import Spool
from pingfeed.ports import EventSink, Trending, UserSignals
from pingfeed.settings import Settings, url_path
from pingfeed.urls import scheme_of

NEEDS: Final = ("events_url", "signals_url", "trending_url", "jwt_jwks")
"""The parts that have to answer before it starts (`pingfeed/startup.py`)."""

MAX_BYTES_BESIDE_SPOOL: Final = 256 << 20
"""Refused events that may wait on this machine for their lake: four full days."""


@dataclass(frozen=True)
class Services:
    """What the routes stand on. `create_app` starts it and closes it."""

    delivery: Delivery
    sink: EventSink
    signals: UserSignals
    trending: Trending
    writer: SignalWriter
    rejected: RejectedLog
    shipper: Shipper | None = None
    """Takes the refused events to a lake that is no folder of this machine."""
    publisher: Publisher | None = None
    """Puts the spool's account into the lake."""
    clock: Clock = system_clock
    make_id: IdMaker = uuid7


def build(settings: Settings) -> Services:
    """Open everything; Busy if another process has the spool, Unavailable if a store cannot be opened."""
    spool = Spool(settings.spool_dir / "ingest", max_bytes=settings.spool_max_mb << 20)
    sink = wiring.open_event_sink(settings)
    signals, trending = wiring.open_signals(settings), wiring.open_trending(settings)
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
        publisher=Publisher(spool.directory, wiring.open_lake_objects(settings)),
    )


def _rejected(settings: Settings) -> tuple[RejectedLog, Shipper | None]:
    """The log of refused events: in the lake's folder, or beside the spool and from there to the lake."""
    writer = uuid7(system_clock())
    if scheme_of(settings.lake_url) == "file":
        return RejectedLog(url_path(settings.lake_url) / "rejected", writer=writer), None
    # In the spool's own folder, which no other process works in.
    log = RejectedLog(settings.spool_dir / "ingest" / "rejected", writer=writer, max_bytes=MAX_BYTES_BESIDE_SPOOL)
    return log, Shipper(log, wiring.open_lake_objects(settings))
