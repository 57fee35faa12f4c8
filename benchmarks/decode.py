"""CPU time to decode a request's body into rows: one event, and 50 in one request.

python -m benchmarks.decode
"""

import sys
import time
from typing import Any, Final

import msgspec

from ingest_api.decode import decode
from pingfeed.core.ids import uuid7

NOW_MS: Final = 1_795_348_800_000
LIMITS_US: Final = {1: 8.0, 50: 110.0}
"""Microseconds of CPU that one call may take, by the number of events."""
ROUNDS: Final = 30
CALLS: Final = 4_000
KINDS: Final = ("view", "like", "impression", "impression", "view")


def event(number: int) -> dict[str, Any]:
    """An event as an app sends it."""
    kind = KINDS[number % len(KINDS)]
    ratio = {"watch_time_ratio": 0.85} if kind == "view" else {}
    return ratio | {
        "event_type": kind,
        "event_id": f"0193f5a0-7b1c-7c1e-9d56-{number:012d}",
        "user_id": f"user-{number % 7}",
        "ping_id": f"ping-{number}",
        "timestamp": "2026-11-22T12:00:00Z",
        "country": "DE",
        "device": "phone",
    }


def cpu_us(count: int) -> float:
    """CPU microseconds per call for a request of `count` events: the best of some rounds."""
    events = [event(number) for number in range(count)]
    many = count > 1
    body = msgspec.json.encode({"events": events} if many else events[0])
    calls, best = CALLS // count, float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(calls):
            decode(body, NOW_MS, uuid7, many=many)
        best = min(best, (time.process_time() - began) / calls)
    return best * 1e6


def main() -> int:
    """Print a line for each size; 1 if one takes too long."""
    found = {count: cpu_us(count) for count in LIMITS_US}
    for count, took_us in found.items():
        sys.stdout.write(f"{count} event(s): {took_us:.1f} us CPU a call (at most {LIMITS_US[count]:.0f})\n")
    return int(any(found[count] > limit for count, limit in LIMITS_US.items()))


if __name__ == "__main__":
    sys.exit(main())
