"""Functions over fakes: ingest over a scripted Firehose, signals, trending and a lake in memory; the feed over less."""

import asyncio
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from feed_api import app as feed_app
from feed_api import wiring as feed_wiring
from feed_api.stages.log_served import ServedActs
from ingest_api.lambda_handler import COUNTED, create
from ingest_api.rejected import RejectedObjects
from ingest_api.signal_writer import SignalWriter
from ingest_api.wiring import Services
from pingfeed.adapters.event_sink_firehose import FirehoseEventSink
from pingfeed.core.events import Row, decode_rows
from pingfeed.core.retry import Backoff
from pingfeed.settings import Settings
from pingfeed.spool.inline import DirectDelivery
from pingfeed.web.lambda_shell import HttpFunction, Opened
from pingfeed.web.metrics import Metrics
from tests.http_api import AUTH
from tests.unit.fake_firehose import FakeFirehose
from tests.unit.fakes import MemoryArtifacts, MemoryCandidates, MemorySignals, MemorySink, MemoryTrending
from tests.unit.ingest_world import NOW_MS

ENVIRON = {
    "PINGFEED_EVENTS_URL": "firehose://events",
    "PINGFEED_LAKE_URL": "s3://bucket/lake",
    "PINGFEED_SIGNALS_URL": "dynamodb://signals",
    "PINGFEED_TRENDING_URL": "snapshot://",
    **AUTH,
}

LIKE = {"event_type": "like", "user_id": "ann", "ping_id": "p1", "event_id": "0190a000-0000-7000-8000-000000000001"}
FOLLOW = {"event_type": "follow", "user_id": "ann", "creator_id": "c1"}
BAD = {"event_type": "like", "user_id": "ann"}


@dataclass
class Context:
    """What Lambda says of an invocation."""

    remaining_ms: int = 22_000
    aws_request_id: str = "one"

    def get_remaining_time_in_millis(self) -> int:
        return self.remaining_ms


@dataclass
class LambdaWorld:
    """One execution environment and its fakes. `environ` may be changed until the function is built."""

    environ: dict[str, str]
    stream: FakeFirehose = field(default_factory=FakeFirehose)
    signals: MemorySignals = field(default_factory=MemorySignals)
    trending: MemoryTrending = field(default_factory=MemoryTrending)
    lake: MemoryArtifacts = field(default_factory=MemoryArtifacts)
    within_s: float = 5.0
    max_objects: int = 100
    drain_s: float = 6.0
    now_ms: int = NOW_MS
    built: list[asyncio.AbstractEventLoop] = field(default_factory=list)
    """The loop that ran at each build."""
    loops: list[asyncio.AbstractEventLoop] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    """What it wrote into its log beside the logger."""

    def __post_init__(self) -> None:
        self.function = HttpFunction(
            "ingest",
            partial(create, self._build),
            counted=COUNTED,
            timeout_s=22,
            prefix="/ingest",
            drain_s=self.drain_s,
            environ=self.environ,
            new_loop=self._loop,
            write=self.lines.append,
        )

    def __call__(self, event: Any, context: Context | None = None) -> dict[str, Any]:
        return self.function(event, context or Context())  # type: ignore[arg-type]  # as much of it as is used

    def landed(self) -> list[Row]:
        """The rows that the stream took, in order."""
        return [row for record in self.stream.taken for row in decode_rows(record)]

    def kept(self) -> list[Any]:
        """The rejected events in the lake."""
        return [json.loads(line) for data in self.lake.data.values() for line in data.splitlines()]

    def counted(self) -> dict[str, Any]:
        """The metrics of the last line."""
        line = json.loads(self.lines[-1])
        return {metric["Name"]: line[metric["Name"]] for metric in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]}

    def running(self) -> list[asyncio.Task[Any]]:
        """Unfinished tasks of its loops."""
        return [task for loop in self.loops for task in asyncio.all_tasks(loop)]

    def _loop(self) -> asyncio.AbstractEventLoop:
        self.loops.append(asyncio.new_event_loop())
        return self.loops[-1]

    def _build(self, settings: Settings) -> Services:
        self.built.append(asyncio.get_running_loop())
        backoff = Backoff(first_s=0.001, longest_s=0.001)
        sink = FirehoseEventSink(settings.events_url, client=self.stream, backoff=backoff, patience_s=0.05)
        writer = SignalWriter(self.signals, self.trending)
        return Services(
            delivery=DirectDelivery(sink, apply=writer, within_s=self.within_s),
            sink=sink,
            signals=self.signals,
            trending=self.trending,
            writer=writer,
            rejected=RejectedObjects(
                self.lake, writer="one", max_objects_a_day=self.max_objects, within_s=self.within_s
            ),
            clock=lambda: self.now_ms,
        )


def open_feed(settings: Settings) -> Opened:
    """The feed over fakes."""
    signals = MemorySignals()
    acts = ServedActs(signals)
    services = feed_wiring.Services(
        candidates=MemoryCandidates(),
        signals=signals,
        trending=MemoryTrending(),
        artifacts=MemoryArtifacts(),
        delivery=DirectDelivery(MemorySink(), apply=acts.apply),
        acts=acts,
    )

    async def warm_up() -> None: ...

    return Opened(feed_app.create_app(services, settings), Metrics(), warm_up)


@contextmanager
def lambda_world(environ: Mapping[str, str] = ENVIRON, **options: Any) -> Iterator[LambdaWorld]:
    """An environment that has not been called yet; its loop goes with it, and the logs are what they were."""
    world, root = LambdaWorld(dict(environ), **options), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield world
    finally:
        root.handlers[:], root.level = handlers, level
        asyncio.set_event_loop(None)
        for loop in world.loops:
            loop.close()
