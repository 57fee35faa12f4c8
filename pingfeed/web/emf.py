"""An app's counters as lines of the log: CloudWatch's Embedded Metric Format, for where nobody scrapes (Lambda).

    {"_aws": {"Timestamp": 1795348800000, "CloudWatchMetrics": [{"Namespace": "pingfeed", "Dimensions": [["service"]],
      "Metrics": [{"Name": "events_accepted", "Unit": "Count"}, {"Name": "events_rejected", "Unit": "Count"}]}]},
     "service": "ingest", "events_accepted": 3, "events_rejected": 2,
     "events_rejected_by_code": {"missing_field": 1, "out_of_range": 1}}

Each number is what was added since the last line, so a sum over a time is what happened in it, in all environments.
CloudWatch bills every metric by name and dimensions, and hours without one not at all; so only those that are asked for
are metrics, a label is no dimension but a field that queries of the log can read, and what has not grown is left out.
"""

from collections.abc import Callable, Collection
from typing import Any, Final

import msgspec

from pingfeed.core.clock import Clock
from pingfeed.web.metrics import Metrics

NAMESPACE: Final = "pingfeed"


class MetricLines:
    """Writes what some counters of a service (`names`, without `pingfeed_` and `_total`) have grown by."""

    def __init__(
        self, metrics: Metrics, service: str, names: Collection[str], *, clock: Clock, write: Callable[[str], Any]
    ) -> None:
        self._metrics, self._service, self._names = metrics, service, names
        self._clock, self._write = clock, write
        self._written: dict[tuple[str, ...], float] = {}

    def flush(self) -> None:
        """Write one line, its line feed included, if anything has grown."""
        grown = self._grown()
        if not grown:
            return
        metrics = [{"Name": name, "Unit": _unit(name)} for name in grown if name in self._names]
        directive = {"Namespace": NAMESPACE, "Dimensions": [["service"]], "Metrics": metrics}
        line = {"_aws": {"Timestamp": self._clock(), "CloudWatchMetrics": [directive]}, "service": self._service}
        self._write(msgspec.json.encode(line | grown).decode() + "\n")

    def _grown(self) -> dict[str, Any]:
        """What each counter grew by, by name, and by its label's values where it has one."""
        grown: dict[str, Any] = {}
        for name, labels, value in self._metrics.counts(self._names):
            key = (name, *labels.values())
            more, self._written[key] = int(value - self._written.get(key, 0)), value
            if more:
                grown[name] = grown.get(name, 0) + more
                for label, of in labels.items():
                    grown.setdefault(f"{name}_by_{label}", {})[of] = more
        return grown


def _unit(name: str) -> str:
    return "Bytes" if name.endswith("_bytes") else "Count"
