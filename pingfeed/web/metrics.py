"""Prometheus counters of one app, on a registry of its own: two apps in one process never share a number."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from pingfeed.ports import SinkCounters

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """What an app counts: requests by itself, domain counters through `counter` and `gauge` (all `pingfeed_*`)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._counters: dict[str, Collector] = {}
        self._requests = self.counter("http_requests", "Requests answered", ("method", "route", "status"))
        self._seconds = Histogram(
            "pingfeed_http_request_seconds",
            "Time to answer a request",
            ("route",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        # To look a label's values up costs as much as to count.
        self._counted: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def counter(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Counter:
        """A new counter `pingfeed_<name>_total`; labels must have few values (never an id)."""
        made = Counter(f"pingfeed_{name}", meaning, labels, registry=self.registry)
        self._counters[name] = made
        return made

    def counted(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """A new counter `pingfeed_<name>_total` of something that counts for itself; read when it is scraped."""
        made = _Counted(f"pingfeed_{name}", meaning, read)
        self.registry.register(made)
        self._counters[name] = made

    def gauge(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Gauge:
        """A new gauge `pingfeed_<name>`; `set_function` reads it when it is scraped."""
        return Gauge(f"pingfeed_{name}", meaning, labels, registry=self.registry)

    def histogram(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Histogram:
        """A new histogram of seconds `pingfeed_<name>_seconds`."""
        return Histogram(f"pingfeed_{name}_seconds", meaning, labels, buckets=_BUCKETS, registry=self.registry)

    def watch_sink(self, read: Callable[[], SinkCounters]) -> None:
        """Show what the event sink counts for itself: its cost comes from the billed bytes."""
        self.counted("sink_bytes", "Bytes of events that the sink took", lambda: read().bytes)
        self.counted("sink_billed_bytes", "Bytes that are billed for them", lambda: read().billed_bytes)
        self.counted("sink_records", "Files or records that hold them", lambda: read().records)
        self.counted("sink_retried_records", "Files or records that were sent again", lambda: read().retried)
        self.counted("sink_set_aside", "Events not of the sink's schema, taken apart", lambda: read().set_aside)

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request; `route` is the path's template, so that its values stay few."""
        counted = self._counted.get((method, route, status))
        if counted is None:
            counted = self._requests.labels(method, route, str(status)), self._seconds.labels(route)
            self._counted[method, route, status] = counted
        counted[0].inc()
        counted[1].observe(seconds)

    def counts(self, names: Collection[str]) -> Iterator[tuple[str, Mapping[str, str], float]]:
        """Name, labels and value of the counters of these names (as they were given to `counter` and `counted`)."""
        for name in names:
            for family in self._counters[name].collect():
                yield from ((name, s.labels, s.value) for s in family.samples if s.name.endswith("_total"))

    def render(self) -> bytes:
        """The registry in Prometheus' text format."""
        return generate_latest(self.registry)


@dataclass(frozen=True)
class _Counted(Collector):
    """A counter whose number is kept elsewhere."""

    name: str
    meaning: str
    read: Callable[[], float]

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(self.name, self.meaning, self.read())

    def describe(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(self.name, self.meaning)
