"""The services as processes, for tests that harm them."""

from tests.journeys.conftest import services

__all__ = ["services"]
