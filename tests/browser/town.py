"""A small world whose services run the demo page and know each other's address."""

import signal
import socket
from pathlib import Path

from tests.journeys.conftest import Running
from tests.journeys.test_feed_reacts import Town


def free_port() -> int:
    """A free port: the page and the CORS settings must know it before a service starts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class DemoTown(Town):
    """A Town with the page; each service may be stopped and restarted at its address."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.feed_service.stop()
        self.ingest.stop()
        self._ports = {"ingest": free_port(), "feed": free_port()}
        self.services.environ |= {
            "PINGFEED_DEMO_PAGE": "1",
            "PINGFEED_DEMO_INGEST_URL": self.address("ingest"),
            "PINGFEED_CORS_ORIGINS": self.address("feed"),
        }
        self.ingest = self.start("ingest")
        self.feed_service = self.start("feed")

    def address(self, name: str) -> str:
        """The address of a service."""
        return f"http://127.0.0.1:{self._ports[name]}"

    def start(self, name: str) -> Running:
        """Start a service at its address and wait until it is ready."""
        running = self.services.launch("serve", name, "--port", str(self._ports[name]), name=name)
        running.await_ready()
        return running

    def play(self, rate: float) -> Running:
        """Start live traffic; `stop` of the returned process ends it."""
        where = ["--ingest", self.address("ingest"), "--feed", self.address("feed"), "--home", str(self.services.home)]
        return self.services.launch("simulate", "live", "--rate", str(rate), *where)

    def close(self) -> None:
        """End everything."""
        self.web.close()
        for service in (self.feed_service, self.ingest):
            if service.process.poll() is None:
                service.stop(signal.SIGTERM)
        self.services.end()
