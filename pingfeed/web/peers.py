"""The metrics of all workers of a port, whichever of them is asked.

Each worker serves its own over a Unix socket in the supervisor's folder. The worker that is scraped adds them up and
keeps a copy: the counters of a worker that has ended, or does not answer, stay in the sum with their last values. So a
sum never falls, which Prometheus would take for a restart.

    <folder>/2-<pid>.sock       a process of the second worker
    <folder>/2-<pid>.metrics    its last metrics, in Prometheus' text format
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pingfeed.web.workers import Worker

_ANSWER_S: Final = 1.0


class Peers:
    """One worker among its peers: serves them what `read` returns, and renders the sum of all."""

    def __init__(self, worker: Worker, read: Callable[[], bytes]) -> None:
        self._socket, self._read = worker.socket(), read
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Serve the other workers."""
        self._server = await asyncio.start_unix_server(self._answer, self._socket)

    async def close(self) -> None:
        """Stop serving them."""
        if self._server is not None:
            self._server.close()

    async def render(self) -> bytes:
        """The sum over all workers in Prometheus' text format."""
        found = [await self._metrics_of(path) for path in sorted(self._socket.parent.glob("*.sock"))]
        return generate_latest(_Sum(family for families in found for family in families))

    async def _metrics_of(self, path: Path) -> list[Metric]:
        """The metrics of a process; only its last counters if it does not answer."""
        text = self._read() if path == self._socket else await _ask(path)
        kept = path.with_suffix(".metrics")
        if text:
            part = path.with_suffix(f".{self._socket.stem}")
            part.write_bytes(text)
            part.replace(kept)
        elif kept.exists():
            return [family for family in _parse(kept.read_bytes()) if family.type != "gauge"]
        return _parse(text)

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            writer.write(self._read())
            await writer.drain()
        writer.close()


class _Sum(CollectorRegistry):
    """Families of the same name added up."""

    def __init__(self, families: Iterable[Metric]) -> None:
        super().__init__()
        self._found: dict[str, Metric] = {}
        self._values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
        for family in families:
            self._found.setdefault(family.name, family)
            values = self._values.setdefault(family.name, {})
            for sample in family.samples:
                key = sample.name, tuple(sample.labels.items())
                since = min(values.get(key, sample.value), sample.value)
                values[key] = since if sample.name.endswith("_created") else values.get(key, 0.0) + sample.value

    def collect(self) -> Iterator[Metric]:
        """Each family, with the sums of its samples."""
        for name, family in self._found.items():
            metric = Metric(name, family.documentation, family.type)
            for (sample, labels), value in self._values[name].items():
                metric.add_sample(sample, dict(labels), value)
            yield metric


def _parse(text: bytes) -> list[Metric]:
    return list(text_string_to_metric_families(text.decode()))


async def _ask(path: Path) -> bytes:
    """The metrics of a process as text; empty if it has ended or does not answer in time."""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(_ANSWER_S):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                return await reader.read()
            finally:
                writer.close()
    return b""
