"""Run an app until SIGTERM or SIGINT: stop accepting, finish what was begun, then close what the app holds."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Final

import uvicorn
from fastapi import FastAPI

from pingfeed.core.errors import SettingsError

log = logging.getLogger(__name__)

_FINISH_S: Final = 10
"""How long requests that were begun may take to finish once a stop was asked for."""


def run(make_app: Callable[[], FastAPI], host: str, port: int) -> None:
    """Serve on one event loop of this process until it is told to stop.

    `make_app` is called inside the event loop. A port that is taken, or an error of ours while starting, is raised as
    it is, so that the command can say it in one sentence.
    """
    with _bound(host, port) as listener:
        config = _config()
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(_serve(make_app, config, listener))


def _config() -> uvicorn.Config:
    return uvicorn.Config(
        _no_app_yet,
        log_config=None,
        access_log=False,
        # The lifespan is run here, not by uvicorn, which would turn an error of ours into a traceback.
        lifespan="off",
        # A forwarded address is never believed (pingfeed/web/auth.py).
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=_FINISH_S,
    )


async def _no_app_yet(*_: object) -> None:
    """Holds the app's place: uvicorn wants one to choose the event loop, and ours is made inside that loop."""


async def _serve(make_app: Callable[[], FastAPI], config: uvicorn.Config, listener: socket.socket) -> None:
    app = config.app = make_app()
    server = _Server(config)
    async with app.router.lifespan_context(app):
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, server.handle_exit, number, None)
        host, port = listener.getsockname()[:2]
        log.info("%s listens on http://%s:%d", app.title, f"[{host}]" if ":" in host else host, port)
        await server.serve([listener])


class _Server(uvicorn.Server):
    """Leaves signals to `_serve`: uvicorn raises them again once it is done, before the app could close in peace."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _bound(host: str, port: int) -> socket.socket:
    """A socket that holds the address; it listens only when the app is ready."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise SettingsError(f"cannot listen on {host}:{port}: {reason.lower()}") from error
    return listener
