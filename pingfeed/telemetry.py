"""JSON logs: one object a line on standard error, with the request's id where there is one; metrics as lines of a log.

Such a line is in CloudWatch's Embedded Metric Format:

    {"_aws": {"Timestamp": 1795348800000, "CloudWatchMetrics": [{"Namespace": "pingfeed", "Dimensions": [["service"]],
      "Metrics": [{"Name": "events_accepted", "Unit": "Count"}, {"Name": "events_rejected", "Unit": "Count"}]}]},
     "service": "pingfeed-dev-ingest", "events_accepted": 3, "events_rejected": 2,
     "events_rejected_by_code": {"missing_field": 1, "out_of_range": 1}}

The dimension is the function's name, which has the stage: stages of one account have metrics and alarms of their own.
CloudWatch bills each metric per name, dimensions and hour in which it is reported. So only a few numbers of a line are
metrics; the others, and labels, are fields that log queries can read.
"""

import hashlib
import logging
import os
import sys
from collections.abc import Collection, Mapping
from contextvars import ContextVar
from typing import Any, Final

import msgspec

from pingfeed.core.clock import system_clock, to_iso

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
NAMESPACE: Final = "pingfeed"
MAX_METRICS: Final = 10
"""Metrics of one function."""
_STANDARD: Final = {*vars(logging.makeLogRecord({})), "message", "asctime", "color_message", "taskName"}


class JsonFormatter(logging.Formatter):
    """A record as JSON; the fields of `extra=` become fields of the object."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, object] = {
            "time": to_iso(system_clock()),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id.get():
            line["request_id"] = request_id.get()
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def nameless(user_id: str) -> str:
    """A stable pseudonym of a user for logs, from which a forgotten user's id could not be removed."""
    return hashlib.blake2b(user_id.encode(), digest_size=6, person=b"pingfeed logs").hexdigest()


def configure_logs(level: int = logging.INFO) -> None:
    """Log everything to standard error as JSON. Called by a program's entry point, never at import."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("uvicorn.access").disabled = True
    for name in ("botocore", "aiobotocore", "boto3", "aioboto3"):
        # They log the source of credentials and endpoint for every client.
        logging.getLogger(name).setLevel(logging.WARNING)


def metric_line(service: str, metrics: Collection[str], values: Mapping[str, Any], at_ms: int) -> str:
    """The values as a line, ending in a line feed; those named in `metrics` become metrics of the service."""
    assert len(metrics) <= MAX_METRICS, f"{service} has more than {MAX_METRICS} metrics"
    found = [{"Name": name, "Unit": _unit(name)} for name in values if name in metrics]
    directive = {"Namespace": NAMESPACE, "Dimensions": [["service"]], "Metrics": found}
    name = os.environ.get("AWS_LAMBDA_FUNCTION_NAME") or service
    line = {"_aws": {"Timestamp": at_ms, "CloudWatchMetrics": [directive]}, "service": name, **values}
    return msgspec.json.encode(line).decode() + "\n"


def _unit(name: str) -> str:
    return {"bytes": "Bytes", "ms": "Milliseconds"}.get(name.rpartition("_")[2], "Count")
