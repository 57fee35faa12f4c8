"""The servers of the conformance suites, for tests of what only a real backend shows."""

from tests.conformance.conftest import place, session_ministack, session_redis

__all__ = ["place", "session_ministack", "session_redis"]
