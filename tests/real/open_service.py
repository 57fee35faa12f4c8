"""A service of the tests' worlds behind a real port of loopback, in a thread of its own: for clients that block."""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from tests.unit.feed_world import catalogue, feed_world
from tests.unit.ingest_world import ingest_world


@contextmanager
def serving(service: str, folder: Path, **environ: str) -> Iterator[str]:
    """The address at which a service answers until the block ends."""
    found: list[str] = []
    ready, stop = threading.Event(), threading.Event()

    async def run() -> None:
        async with world_of(service, folder, environ) as world:
            config = uvicorn.Config(world.app, port=0, lifespan="off", log_config=None, access_log=False)
            server = uvicorn.Server(config)
            task = asyncio.create_task(server.serve())
            while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                await asyncio.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            found.append(f"http://127.0.0.1:{port}")
            ready.set()
            await asyncio.to_thread(stop.wait)
            server.should_exit = True
            await task

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        assert ready.wait(60), f"{service} did not start"
        yield found[0]
    finally:
        stop.set()
        thread.join()


def world_of(service: str, folder: Path, environ: Mapping[str, str]) -> AbstractAsyncContextManager[Any]:
    """The world of a service; the feed has pings to serve."""
    if service == "ingest":
        return ingest_world(folder, environ=environ)
    return feed_world(folder, catalogue(60), environ=environ)
