"""The metrics of one app: Prometheus, or lines in the log where nothing scrapes (Lambda).

Each app has its own registry, so two apps in one process never share a number. `MetricLines` writes lines for
CloudWatch (`pingfeed/telemetry.py`). Each number is the increase since the last line, so a sum over a period is the
total across all environments; unchanged counters are left out.
"""

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from pingfeed.core.clock import Clock
from pingfeed.ports import SinkCounters
from pingfeed.telemetry import metric_line

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """HTTP requests, and the counters, gauges and histograms that an app registers; all are named `pingfeed_*`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.render_all: Callable[[], Awaitable[bytes]] = self._render_own
        """The metrics of all processes that serve the port (`peers.py`)."""
        self._counters: dict[str, Collector] = {}
        self._requests = self.counter("http_requests", "Requests answered", ("method", "route", "status"))
        self._seconds = Histogram(
            "pingfeed_http_request_seconds",
            "Time to answer a request",
            ("route",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        # Looking up label values costs as much as counting.
        self._by_request: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def counter(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Counter:
        """A new counter `pingfeed_<name>_total`; labels must have few values (never an id)."""
        made = Counter(f"pingfeed_{name}", meaning, labels, registry=self.registry)
        self._counters[name] = made
        return made

    def counted(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """A new counter `pingfeed_<name>_total` whose value is kept elsewhere and read on each scrape."""
        made = _ExternalCounter(f"pingfeed_{name}", meaning, read)
        self.registry.register(made)
        self._counters[name] = made

    def gauge(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Gauge:
        """A new gauge `pingfeed_<name>`; `set_function` sets the function to read on each scrape."""
        return Gauge(f"pingfeed_{name}", meaning, labels, registry=self.registry)

    def histogram(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Histogram:
        """A new histogram of seconds `pingfeed_<name>_seconds`."""
        return Histogram(f"pingfeed_{name}_seconds", meaning, labels, buckets=_BUCKETS, registry=self.registry)

    def watch_sink(self, read: Callable[[], SinkCounters]) -> None:
        """Export the event sink's counters; its cost follows from the billed bytes."""
        self.counted("sink_bytes", "Bytes of events written to the sink", lambda: read().bytes)
        self.counted("sink_billed_bytes", "Bytes billed for events written to the sink", lambda: read().billed_bytes)
        self.counted("sink_records", "Files or records written to the sink", lambda: read().records)
        self.counted("sink_retried_records", "Files or records sent again", lambda: read().retried)
        self.counted("sink_quarantined", "Events that do not match the sink's schema", lambda: read().quarantined)

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Record one request; `route` is the path's template, so that it has few values."""
        found = self._by_request.get((method, route, status))
        if found is None:
            found = self._requests.labels(method, route, str(status)), self._seconds.labels(route)
            self._by_request[method, route, status] = found
        found[0].inc()
        found[1].observe(seconds)

    def counts(self, names: Collection[str]) -> Iterator[tuple[str, Mapping[str, str], float]]:
        """Name, labels and value of these counters (names as given to `counter` and `counted`)."""
        for name in names:
            for family in self._counters[name].collect():
                yield from ((name, s.labels, s.value) for s in family.samples if s.name.endswith("_total"))

    def render(self) -> bytes:
        """The metrics of this process in Prometheus' text format."""
        return generate_latest(self.registry)

    async def _render_own(self) -> bytes:
        return self.render()


@dataclass(frozen=True)
class _ExternalCounter(Collector):
    """A counter whose value is kept elsewhere."""

    name: str
    meaning: str
    read: Callable[[], float]

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(self.name, self.meaning, self.read())

    def describe(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(self.name, self.meaning)


class MetricLines:
    """Writes the increases of a service's counters (`names`, without `pingfeed_` and `_total`)."""

    def __init__(
        self, metrics: Metrics, service: str, names: Collection[str], *, clock: Clock, write: Callable[[str], Any]
    ) -> None:
        self._metrics, self._service, self._names = metrics, service, names
        self._clock, self._write = clock, write
        self._written: dict[tuple[str, ...], float] = {}

    def flush(self) -> None:
        """Write one line, ending in a line feed, if any counter has increased."""
        increases = self._increases()
        if not increases:
            return
        self._write(metric_line(self._service, self._names, increases, self._clock()))

    def _increases(self) -> dict[str, Any]:
        """The increase of each counter by name, and by label value where it has a label."""
        increases: dict[str, Any] = {}
        for name, labels, value in self._metrics.counts(self._names):
            key = (name, *labels.values())
            more, self._written[key] = int(value - self._written.get(key, 0)), value
            if more:
                increases[name] = increases.get(name, 0) + more
                for label, of in labels.items():
                    increases.setdefault(f"{name}_by_{label}", {})[of] = more
        return increases
