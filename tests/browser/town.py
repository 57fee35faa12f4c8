"""A small world whose services have the demo page on, at addresses that each knows of the other."""

import signal
import socket
from pathlib import Path

from tests.journeys.conftest import Running
from tests.journeys.test_feed_reacts import Town


def free_port() -> int:
    """A port that nobody listens on now: a page and its CORS settings must know it before anything is started."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class DemoTown(Town):
    """A Town with the page; either service may be stopped and started again where it was."""

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
        """Where a service listens."""
        return f"http://127.0.0.1:{self._ports[name]}"

    def start(self, name: str) -> Running:
        """Start a service at its address and wait until it is ready."""
        running = self.services.launch("serve", name, "--port", str(self._ports[name]), name=name)
        running.await_ready()
        return running

    def play(self, rate: float) -> Running:
        """Let the world's people play; returns the player, which `stop` ends."""
        where = ["--ingest", self.address("ingest"), "--feed", self.address("feed"), "--home", str(self.services.home)]
        return self.services.launch("simulate", "live", "--rate", str(rate), *where)

    def close(self) -> None:
        """End everything."""
        self.web.close()
        for service in (self.feed_service, self.ingest):
            if service.process.poll() is None:
                service.stop(signal.SIGTERM)
        self.services.end()
