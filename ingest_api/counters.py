"""What the ingest service counts, by name (all `pingfeed_*`)."""

from ingest_api.wiring import Services
from pingfeed.web.metrics import Metrics


class Counters:
    """What becomes of the events of a request, beside those that delivery accepts and counts."""

    def __init__(self, metrics: Metrics) -> None:
        self.duplicates = metrics.counter("events_duplicate", "Events acknowledged again, not stored again")
        self.rejected = metrics.counter("events_rejected", "Events refused, by reason", ("code",))
        self.rejected_dropped = metrics.counter("events_rejected_dropped", "Refused events that were not kept")


def watch(metrics: Metrics, services: Services) -> None:
    """Show what the services count for themselves."""
    found = services.delivery
    metrics.counted("events_accepted", "Events made durable", lambda: found.counters.accepted)
    metrics.counted("events_delivered", "Events that the sink took", lambda: found.counters.delivered)
    metrics.counted("delivery_failures", "Batches that the sink refused", lambda: found.counters.delivery_failures)
    metrics.counted("signals_given_up", "Events whose signals cannot be applied", lambda: found.counters.apply_given_up)
    metrics.counted("signal_failures", "Times that signals were not applied", lambda: found.counters.apply_failures)
    metrics.counted("trending_failures", "Times that trending missed some", lambda: services.writer.trending_failures)
    metrics.gauge("spool_events", "Events that wait for delivery").set_function(lambda: found.counters.spooled_events)
    metrics.gauge("spool_bytes", "Their bytes").set_function(lambda: found.counters.spooled_bytes)
    metrics.gauge("spool_unapplied", "Files whose signals wait").set_function(lambda: found.counters.unapplied)
    metrics.counted("spool_damage", "Damaged places found in its files", lambda: found.counters.spooled_damage)
    metrics.watch_sink(lambda: found.sink_counters)
