"""Which product files run code for one warm feed, and for one like: `python -m benchmarks.files_on_path`.

Both services run in this process, in embedded mode over a small simulated world. A profiler notes the file of every
product function that is called: on the event loop and on every thread, from the request until its events are spooled
(feed) or in the lake and read by a tick (like). Importing a module does not count. docs/flow.md lists these files;
`--check` exits with 1 when there are more than MOST.
"""

import argparse
import asyncio
import inspect
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType

import httpx
from fastapi import FastAPI

import feed_api.app
import feed_api.wiring
import ingest_api.app
import ingest_api.wiring
from batch.jobs import tick
from batch.wiring import build
from benchmarks.serving import prepare
from pingfeed.settings import Settings, load

ROOT = Path(__file__).parents[1]
PRODUCT = tuple(f"{ROOT / package}/" for package in ("pingfeed", "ingest_api", "feed_api", "batch"))
MOST = {"feed": 48, "like": 70}
USER = "user-0007"
WAIT_S = 30


class Profiler:
    """Notes the files of the product functions that are called while it records."""

    def __init__(self) -> None:
        self._found: set[str] | None = None
        # Threads that start later have the hook as well; those of the libraries start with the services.
        threading.setprofile(self._note)
        sys.setprofile(self._note)

    def _note(self, frame: FrameType, event: str, _argument: object) -> None:
        if self._found is None or event != "call":
            return
        code = frame.f_code
        # The bodies of modules and classes run when they are imported.
        if code.co_flags & inspect.CO_NEWLOCALS and code.co_filename.startswith(PRODUCT):
            self._found.add(code.co_filename)

    @contextmanager
    def recording(self, found: set[str]) -> Iterator[None]:
        """Note into `found`."""
        self._found = found
        try:
            yield
        finally:
            self._found = None


@asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a running app."""
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app")
    async with app.router.lifespan_context(app), client:
        yield client


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what a service does in the background."""
    end = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"nothing arrived within {WAIT_S} s")
        await asyncio.sleep(0.02)


async def run_feed(settings: Settings, profiler: Profiler) -> set[str]:
    """The files of one feed, until its `feed_served` event is in the spool."""
    found: set[str] = set()
    app = feed_api.app.create_app(feed_api.wiring.build(settings), settings)
    async with client_of(app) as client:

        async def feed() -> None:
            before = size(settings.spool_dir)
            answer = await client.get("/get-feed", params={"user_id": USER})
            assert answer.json()["degraded"] == [], answer.text
            await until(lambda: size(settings.spool_dir) > before)

        await feed()
        await feed()
        with profiler.recording(found):
            await feed()
    return found


async def send_like(settings: Settings, found: set[str], profiler: Profiler) -> None:
    """The second of two likes, until it is in the lake."""
    app = ingest_api.app.create_app(ingest_api.wiring.build(settings), settings)
    async with client_of(app) as client:

        async def like(ping_id: str) -> None:
            before = size(settings.home / "lake/events")
            event = {"event_type": "like", "user_id": USER, "ping_id": ping_id}
            answer = await client.post("/track-event", json=event)
            assert answer.status_code == 202, answer.text
            await until(lambda: size(settings.home / "lake/events") > before)

        await like("ping-00001")
        with profiler.recording(found):
            await like("ping-00002")


def run_like(settings: Settings, profiler: Profiler) -> set[str]:
    """The files of one like: the request, its delivery to the lake and the tick that reads it."""
    found: set[str] = set()
    next_tick = time.time_ns() // 1_000_000 // settings.tick_ms + 1
    for later in range(2):  # The first is the warm-up.
        batch = build(settings, clock=lambda at=next_tick + later: at * settings.tick_ms + 5000, quiet=True)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        asyncio.run(send_like(settings, found if later else set(), profiler))
        with profiler.recording(found if later else set()):
            tick.run(batch, next_tick + later)
    return found


def size(folder: Path) -> int:
    """Bytes in the folder's files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> int:
    """Print both lists."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 when there are more files than allowed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = load(
            {"PINGFEED_HOME": folder, "PINGFEED_SINK_FLUSH_SECONDS": "0.2", "PINGFEED_FEED_BUDGET_MS": "5000"}
        )
        prepare(settings.home)
        profiler = Profiler()
        paths = {"feed": asyncio.run(run_feed(settings, profiler)), "like": run_like(settings, profiler)}
    for name, found in paths.items():
        print(f"One {name} runs code in {len(found)} files (at most {MOST[name]}):")
        print("".join(f"  {Path(path).relative_to(ROOT)}\n" for path in sorted(found)))
    too_many = any(len(found) > MOST[name] for name, found in paths.items())
    return 1 if options.check and too_many else 0


if __name__ == "__main__":
    sys.exit(main())
