"""What the feed counts about itself, beside what every service counts."""

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
        self._feeds = metrics.counter("feed_answers", "Feeds answered")
        self._candidates = metrics.counter("feed_candidates", "Candidates ranked, after filters and refill")
        self._items = metrics.counter("feed_items", "Pings shown")
        self._removed = metrics.counter("feed_removed", "Candidates left out", ("reason",))
        self._degraded = metrics.counter("feed_degraded", "Feeds answered without a part", ("part",))
        self._stages = metrics.counter("feed_stage_seconds", "Time spent in a stage", ("stage",))
        self._stage_counters: dict[str, prometheus_client.Counter] = {}
        self._refused = metrics.counter("feed_artifacts_refused", "Models and snapshots not taken", ("what",))
        self._swapped = metrics.counter("feed_artifacts_swapped", "Models and snapshots taken", ("what",))
        self._trending_failed = metrics.counter("feed_trending_failures", "Trending lists that were not read")
        self._act_failed = metrics.counter("feed_served_act_failures", "Served acts that were late or failed")
        self._lost = metrics.counter("feed_served_lost", "feed_served events that the spool did not take")

    def watch(self, delivery: Delivery) -> None:
        """Show what the delivery of `feed_served` counts for itself."""
        self._metrics.counted("events_accepted", "Events made durable", lambda: delivery.counters.accepted)
        self._metrics.counted("events_delivered", "Events that the sink took", lambda: delivery.counters.delivered)
        self._metrics.counted(
            "delivery_failures", "Batches that the sink refused", lambda: delivery.counters.delivery_failures
        )
        waiting = self._metrics.gauge("spool_events", "Events that wait for delivery")
        waiting.set_function(lambda: delivery.counters.spooled_events)
        self._metrics.gauge("spool_bytes", "Their bytes").set_function(lambda: delivery.counters.spooled_bytes)
        self._metrics.watch_sink(lambda: delivery.sink_counters)

    def watch_cache(self, cache: PacketCache) -> None:
        """Show what a cache of packets counts for itself."""
        self._metrics.counted("packet_cache_passed_by", "Reads that passed the cache by", lambda: cache.passed_by)

    def answered(self, candidates: int, items: int, degraded: Iterable[str], removed: Iterable[str]) -> None:
        """One feed was answered."""
        self._feeds.inc()
        self._candidates.inc(candidates)
        self._items.inc(items)
        for part in degraded:
            self._degraded.labels(part).inc()
        for reason, count in Counter(removed).items():
            self._removed.labels(reason).inc(count)

    def spent(self, stage: str, seconds: float) -> None:
        """A stage of one feed took this long."""
        counter = self._stage_counters.get(stage)
        if counter is None:  # Looking labels up costs more than counting.
            counter = self._stage_counters[stage] = self._stages.labels(stage)
        counter.inc(seconds)

    def refused(self, what: str) -> None:
        """A published model or snapshot is damaged or of another feature digest; the old one goes on serving."""
        self._refused.labels(what).inc()

    def swapped(self, what: str) -> None:
        """A published model or snapshot was put live."""
        self._swapped.labels(what).inc()

    def trending_failed(self) -> None:
        """A trending list was not read."""
        self._trending_failed.inc()

    def act_failed(self) -> None:
        """A `served` act was not applied before the answer went out."""
        self._act_failed.inc()

    def lost(self, events: int) -> None:
        """These `feed_served` events never reached the spool."""
        self._lost.inc(events)
