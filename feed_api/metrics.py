"""The feed's own metrics, beside those of every service."""

from collections import Counter
from collections.abc import Iterable

import prometheus_client

from pingfeed.ports import PacketCache
from pingfeed.spool.delivery import Delivery
from pingfeed.web.metrics import Metrics


class FeedMetrics:
    """Domain counters of the feed, on the app's registry."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._feeds = metrics.counter("feed_answers", "Feeds served")
        self._candidates = metrics.counter("feed_candidates", "Candidates ranked, after filters and refill")
        self._items = metrics.counter("feed_items", "Pings served")
        self._removed = metrics.counter("feed_removed", "Candidates filtered out", ("reason",))
        self._degraded = metrics.counter("feed_degraded", "Degraded responses", ("part",))
        self._stages = metrics.counter("feed_stage_seconds", "Time spent in a stage", ("stage",))
        self._stage_counters: dict[str, prometheus_client.Counter] = {}
        self._rejected = metrics.counter("feed_artifacts_rejected", "Models and snapshots rejected", ("what",))
        self._loaded = metrics.counter("feed_artifacts_loaded", "Models and snapshots put live", ("what",))
        self._trending_failed = metrics.counter("feed_trending_failures", "Failed reads of trending lists")
        self._act_failed = metrics.counter("feed_served_act_failures", "`served` acts not applied in time")
        self._lost = metrics.counter("feed_served_lost", "feed_served events that the spool did not accept")

    def watch(self, delivery: Delivery) -> None:
        """Export the counters of `feed_served` delivery."""
        self._metrics.counted("events_accepted", "Events made durable", lambda: delivery.counters.accepted)
        self._metrics.counted("events_delivered", "Events delivered to the sink", lambda: delivery.counters.delivered)
        self._metrics.counted(
            "delivery_failures", "Batches that the sink rejected", lambda: delivery.counters.delivery_failures
        )
        waiting = self._metrics.gauge("spool_events", "Events waiting for delivery")
        waiting.set_function(lambda: delivery.counters.spooled_events)
        self._metrics.gauge("spool_bytes", "Their bytes").set_function(lambda: delivery.counters.spooled_bytes)
        self._metrics.watch_sink(lambda: delivery.sink_counters)

    def watch_cache(self, cache: PacketCache) -> None:
        """Export the counter of a packet cache."""
        self._metrics.counted("packet_cache_passed_by", "Reads that bypassed the cache", lambda: cache.passed_by)

    def responded(self, candidates: int, items: int, degraded: Iterable[str], removed: Iterable[str]) -> None:
        """Count one feed."""
        self._feeds.inc()
        self._candidates.inc(candidates)
        self._items.inc(items)
        for part in degraded:
            self._degraded.labels(part).inc()
        for reason, count in Counter(removed).items():
            self._removed.labels(reason).inc(count)

    def add_stage_time(self, stage: str, seconds: float) -> None:
        """Add one feed's time in a stage."""
        counter = self._stage_counters.get(stage)
        if counter is None:  # Looking labels up costs more than counting.
            counter = self._stage_counters[stage] = self._stages.labels(stage)
        counter.inc(seconds)

    def artifact_rejected(self, what: str) -> None:
        """Count a published model or snapshot that is damaged or of another feature digest."""
        self._rejected.labels(what).inc()

    def artifact_loaded(self, what: str) -> None:
        """Count a model or snapshot that was put live."""
        self._loaded.labels(what).inc()

    def trending_failed(self) -> None:
        """Count a failed read of a trending list."""
        self._trending_failed.inc()

    def act_failed(self) -> None:
        """Count a `served` act that was not applied before the response."""
        self._act_failed.inc()

    def lost(self, events: int) -> None:
        """Count `feed_served` events that never reached the spool."""
        self._lost.inc(events)
