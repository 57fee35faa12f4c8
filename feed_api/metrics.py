"""The feed's own metrics, beside those of every service."""

from collections import Counter
from collections.abc import Callable, Iterable, Set
from functools import cache

from pingfeed.ports import PacketCache
from pingfeed.spool.delivery import Delivery
from pingfeed.spool.inline import DirectDelivery
from pingfeed.web.metrics import Metrics


class FeedMetrics:
    """Domain counters of the feed, on the app's registry; the public ones are incremented where they occur."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._feeds = metrics.counter("feed_answers", "Feeds served")
        self._candidates = metrics.counter("feed_candidates", "Candidates ranked, after filters and refill")
        self._items = metrics.counter("feed_items", "Pings served")
        self._removed = metrics.counter("feed_removed", "Candidates filtered out", ("reason",))
        self._degraded = metrics.counter("feed_degraded", "Degraded responses", ("part",))
        self._incomplete = metrics.counter("feed_incomplete", "Feeds that lacked a part other than the model")
        stages = metrics.counter("feed_stage_seconds", "Time spent in a stage", ("stage",))
        self.stage_seconds = cache(stages.labels)  # looking labels up costs more than counting
        self.rejected = metrics.counter("feed_artifacts_rejected", "Models and snapshots rejected", ("what",))
        self.loaded = metrics.counter("feed_artifacts_loaded", "Models and snapshots put live", ("what",))
        self.refresh_failures = metrics.counter(
            "feed_refresh_failures", "Reads of the live model and snapshot that failed, or came late for a request"
        )
        self.trending_failures = metrics.counter("feed_trending_failures", "Failed reads of trending lists")
        self.act_failures = metrics.counter("feed_served_act_failures", "`served` acts not applied in time")
        self.shed = metrics.counter("feed_shed", "Feeds rejected with a 503 because they would come too late")
        self.dropped = metrics.counter(
            "feed_served_dropped", "feed_served events that a function could not put within the budget"
        )
        self.lost = metrics.counter("feed_served_lost", "feed_served events that the spool did not accept")

    def watch(self, delivery: Delivery | DirectDelivery) -> None:
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

    def watch_tasks(self, failures: Callable[[], int]) -> None:
        """Export how often background tasks have failed."""
        self._metrics.counted("background_failures", "Errors that a background task survived", failures)

    def watch_cache(self, cache: PacketCache) -> None:
        """Export the counter of a packet cache."""
        self._metrics.counted("packet_cache_passed_by", "Reads that bypassed the cache", lambda: cache.passed_by)

    def responded(self, candidates: int, items: int, degraded: Set[str], removed: Iterable[str]) -> None:
        """Count one feed."""
        self._feeds.inc()
        self._candidates.inc(candidates)
        self._items.inc(items)
        for part in degraded:
            self._degraded.labels(part).inc()
        self._incomplete.inc(bool(degraded - {"model"}))
        for reason, count in Counter(removed).items():
            self._removed.labels(reason).inc(count)
