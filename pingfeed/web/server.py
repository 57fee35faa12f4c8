"""Run an app until SIGTERM or SIGINT, then stop accepting, finish open requests and shut the app down."""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Final

import uvicorn
from fastapi import FastAPI

from pingfeed.web.protocol import Edge, GuardedProtocol, Limits
from pingfeed.web.workers import Worker, bound

log = logging.getLogger(__name__)

_FINISH_S: Final = 10
"""How long open requests may take to finish on shutdown."""


def run(make_app: Callable[[], FastAPI], host: str, port: int, worker: Worker | None = None) -> None:
    """Serve on one event loop of this process until a stop signal, or until a worker's supervisor is gone.

    `make_app` is called inside the event loop. A port that is in use, or a PingfeedError during start-up, propagates
    unchanged, so that the command can report it in one sentence.
    """
    with socket.socket(fileno=worker.listener) if worker else bound(host, port) as listener:
        config = _config()
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(_serve(make_app, config, listener, watch_stdin=worker is not None))


def _config() -> uvicorn.Config:
    return uvicorn.Config(
        _no_app_yet,
        ws="none",
        log_config=None,
        access_log=False,
        # The lifespan runs in `_serve`: uvicorn would turn a PingfeedError into a traceback.
        lifespan="off",
        # Forwarded addresses are never trusted (pingfeed/web/auth.py).
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=_FINISH_S,
    )


async def _no_app_yet(*_: object) -> None:
    """A placeholder: uvicorn needs an app to choose the event loop, and ours is created inside that loop."""


async def _serve(
    make_app: Callable[[], FastAPI], config: uvicorn.Config, listener: socket.socket, *, watch_stdin: bool
) -> None:
    app = config.app = make_app()
    server = Server(config)
    async with app.router.lifespan_context(app):
        # What the start has made stays: a full collection that looks at all of it would stop requests for 50 ms.
        gc.collect()
        gc.freeze()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.handle_exit, number, None)
        if watch_stdin:  # It ends with the supervisor.
            loop.add_reader(sys.stdin, _orphaned, loop, server)
        host, port = listener.getsockname()[:2]
        log.info("%s listens on http://%s:%d", app.title, f"[{host}]" if ":" in host else host, port)
        await server.serve([listener])


def _orphaned(loop: asyncio.AbstractEventLoop, server: uvicorn.Server) -> None:
    loop.remove_reader(sys.stdin)
    server.handle_exit(signal.SIGTERM, None)


class Server(uvicorn.Server):
    """Accepts connections itself, within the limits of `protocol.py`: uvloop's servers cannot pause."""

    def __init__(self, config: uvicorn.Config, limits: Limits | None = None) -> None:
        super().__init__(config)
        self._edge = Edge(limits)
        self._accepting: list[asyncio.Task[None]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await self.lifespan.startup()
        self.servers = []
        for listener in sockets or []:
            listener.listen(self.config.backlog)
            listener.setblocking(False)
            self._accepting.append(asyncio.create_task(self._accept(listener)))
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, and finish open requests."""
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        await super().shutdown(sockets)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._edge.wait_for_room(self.server_state.connections)
            try:
                accepted, _ = await loop.sock_accept(listener)
                await loop.connect_accepted_socket(self._connection, accepted)
            except OSError as error:  # such as EMFILE, or a client that has left
                self._edge.count(f"not accepted: {error.strerror}")
                await asyncio.sleep(0.05)

    def _connection(self) -> GuardedProtocol:
        return GuardedProtocol(
            self._edge, config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `_serve`: uvicorn re-raises them when it is done, before the app could shut down cleanly."""
        yield
