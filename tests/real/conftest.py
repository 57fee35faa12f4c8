"""Redis servers of the session, and ones that a test may kill."""

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.servers import Server, redis_cluster, redis_server, running


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Server]:
    with running(redis_server(tmp_path / "redis")) as server:
        yield server


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Server]:
    with running(redis_cluster(tmp_path / "redis")) as server:
        yield server


@pytest.fixture
def server(session_redis: Server) -> Server:
    return session_redis


@pytest.fixture
def namespace() -> str:
    """The test's own."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def url(server: Server, namespace: str) -> str:
    return f"redis://127.0.0.1:{server.port}?namespace={namespace}"


@pytest.fixture
async def raw(server: Server) -> AsyncIterator[Any]:
    """The server without an adapter (Any: the client's annotations name every protocol's shapes at once)."""
    async with Redis(port=server.port) as redis:
        yield redis
