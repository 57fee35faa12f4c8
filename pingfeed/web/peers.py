"""The metrics of all workers of a port, whichever of them is asked.

Each worker tells its own over a Unix socket in the supervisor's folder. The one that is asked adds them up, and keeps
what each had said in a file there: the counters of a worker that ended, or does not answer, go on counting as they
last were, so a sum never falls (Prometheus would take that for a restart).

    <folder>/2.sock            the second worker's socket
    <folder>/<id>.metrics      what one process last told, as JSON: its id, then its families of samples
"""

import asyncio
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry, Metric, generate_latest

from pingfeed.web.workers import Worker

_ANSWER_S: Final = 1.0


class _Family(msgspec.Struct, frozen=True, array_like=True):
    """One metric of one process, with its samples: name, labels and value."""

    name: str
    meaning: str
    kind: str
    samples: list[tuple[str, dict[str, str], float]]


class _Told(msgspec.Struct, frozen=True, array_like=True):
    """What one process told."""

    id: str
    families: list[_Family]


class Peers:
    """One worker among its peers: tells them its metrics while it is open, and renders the sum of all."""

    def __init__(self, worker: Worker, registry: CollectorRegistry) -> None:
        self._worker, self._registry = worker, registry
        self._id = os.urandom(8).hex()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Answer the others."""
        self._server = await asyncio.start_unix_server(self._answer, self._worker.socket)

    async def close(self) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.close()

    async def render(self) -> bytes:
        """The sum over all workers in Prometheus' text format."""
        folder = self._worker.folder
        others = [path for path in folder.glob("*.sock") if path != self._worker.socket]
        answers = [self._own(), *await asyncio.gather(*map(_ask, others))]
        told = {one.id: one for data in answers if data for one in [_parse(data)]}
        ended = [_parse(path.read_bytes()) for path in folder.glob("*.metrics") if path.stem not in told]
        for one in told.values():
            part = folder / f"{one.id}.{self._id}"
            part.write_bytes(msgspec.json.encode(one))
            part.replace(folder / f"{one.id}.metrics")
        counters = (family for one in ended for family in one.families if family.kind != "gauge")
        return generate_latest(_Sum([*(family for one in told.values() for family in one.families), *counters]))

    def _own(self) -> bytes:
        families = [
            _Family(found.name, found.documentation, found.type, [(s.name, s.labels, s.value) for s in found.samples])
            for found in self._registry.collect()
        ]
        return msgspec.json.encode(_Told(self._id, families))

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            writer.write(self._own())
            await writer.drain()
        writer.close()


class _Sum(CollectorRegistry):
    """Families of the same name added up."""

    def __init__(self, families: Iterable[_Family]) -> None:
        super().__init__()
        self._found: dict[str, _Family] = {}
        self._values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
        for family in families:
            self._found.setdefault(family.name, family)
            values = self._values.setdefault(family.name, {})
            for name, labels, value in family.samples:
                key = name, tuple(labels.items())
                since = min(values.get(key, value), value)
                values[key] = since if name.endswith("_created") else values.get(key, 0.0) + value

    def collect(self) -> Iterator[Metric]:
        """Each family, with the sums of its samples."""
        for name, family in self._found.items():
            metric = Metric(name, family.meaning, family.kind)
            for (sample, labels), value in self._values[name].items():
                metric.add_sample(sample, dict(labels), value)
            yield metric


def _parse(data: bytes) -> _Told:
    return msgspec.json.decode(data, type=_Told)


async def _ask(path: Path) -> bytes:
    """What a peer tells; nothing if it has ended or does not answer in time."""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(_ANSWER_S):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                return await reader.read()
            finally:
                writer.close()
    return b""
