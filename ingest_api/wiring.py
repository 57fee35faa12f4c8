"""From settings to what the service works with. The only file here that knows which adapters there are."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ingest_api.apply import SignalWriter
from ingest_api.rejected import RejectedLog
from pingfeed import wiring
from pingfeed.clock import Clock, IdMaker, system_clock, uuid7
from pingfeed.delivery.delivery import Delivery
from pingfeed.delivery.spool import Spool
from pingfeed.ports import EventSink, Trending, UserSignals
from pingfeed.settings import Settings, url_path
from pingfeed.urls import scheme_of

NEEDS: Final = ("events_url", "signals_url", "trending_url")
"""The parts that have to answer before it starts (`pingfeed/startup.py`)."""


@dataclass(frozen=True)
class Services:
    """What the routes stand on. `create_app` starts it and closes it."""

    delivery: Delivery
    sink: EventSink
    signals: UserSignals
    trending: Trending
    writer: SignalWriter
    rejected: RejectedLog
    clock: Clock = system_clock
    make_id: IdMaker = uuid7


def build(settings: Settings) -> Services:
    """Open everything; Busy if another process has the spool, Unavailable if a store cannot be opened."""
    spool = Spool(settings.spool_dir / "ingest")
    sink = wiring.open_event_sink(settings)
    signals, trending = wiring.open_signals(settings), wiring.open_trending(settings)
    writer = SignalWriter(signals, trending)
    return Services(
        delivery=Delivery(spool, sink, apply=writer, flush_seconds=settings.sink_flush_seconds),
        sink=sink,
        signals=signals,
        trending=trending,
        writer=writer,
        rejected=RejectedLog(_rejected(settings), writer=uuid7(system_clock())),
    )


def _rejected(settings: Settings) -> Path:
    """Where refused events are kept: in the lake where that is a folder, else in the home; lines are appended."""
    here = scheme_of(settings.lake_url) == "file"
    return (url_path(settings.lake_url) if here else settings.home) / "rejected"
