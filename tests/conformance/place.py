"""Where a suite's adapter lives: a folder of this test, and real servers if the adapter needs them.

ADAPTERS: dict[str, Callable[[Place], Lake]] = {
    "file": lambda place: FileLake(f"file://{place.folder}/lake"),
    "s3": lambda place: S3Lake(f"s3://{place.bucket}/lake"),
}
"""

import uuid
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import pytest

from pingfeed.aws import TTL
from tests.servers import AWS_ENVIRONMENT, Server

EMBEDDED: Final = frozenset({"file", "disk", "sqlite", "snapshot"})
"""Adapters without a server: they run in `make test`, the others in `make test-real`."""


class Place:
    """One test's own surroundings. Opening an adapter twice in the same place opens the same store twice."""

    def __init__(self, request: pytest.FixtureRequest, folder: Path) -> None:
        self.folder = folder
        self._request = request
        self._name = f"t{uuid.uuid4().hex[:12]}"

    def another(self) -> "Place":
        """A fresh place beside this one."""
        return Place(self._request, self.folder / uuid.uuid4().hex)

    @cached_property
    def redis_url(self) -> str:
        """`redis://...?namespace=...` of the session's server; the namespace is this test's own."""
        server: Server = self._request.getfixturevalue("session_redis")
        return f"redis://127.0.0.1:{server.port}/0?namespace={self._name}"

    @cached_property
    def bucket(self) -> str:
        """A bucket of this test's own, on the session's MiniStack."""
        from deploy.bucket import ensure

        name = f"pingfeed-{self.aws}"
        ensure(f"s3://{name}/any")
        return name

    @cached_property
    def redis_cluster_url(self) -> str:
        """The same on the session's server in cluster mode."""
        server: Server = self._request.getfixturevalue("session_redis_cluster")
        return f"redis://127.0.0.1:{server.port}?namespace={self._name}"

    @cached_property
    def table(self) -> str:
        """A table of this test's own, on the session's MiniStack.

        Without TTL: a suite has times of its own, and what they say is over the emulator would remove within a minute.
        """
        import boto3

        from deploy.tables import ensure

        ensure(f"dynamodb://{self.aws}")
        ttl_off = {"Enabled": False, "AttributeName": TTL}
        boto3.client("dynamodb").update_time_to_live(TableName=self.aws, TimeToLiveSpecification=ttl_off)
        return self.aws

    @cached_property
    def aws(self) -> str:
        """A name for this test's buckets, tables and streams, with the session's MiniStack as AWS."""
        server: Server = self._request.getfixturevalue("session_ministack")
        patch: pytest.MonkeyPatch = self._request.getfixturevalue("monkeypatch")
        for name, value in {**AWS_ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}"}.items():
            patch.setenv(name, value)
        return self._name


def cases(adapters: Mapping[str, Any]) -> Iterable[Any]:
    """A suite's adapters as parameters."""
    return [
        pytest.param(adapter, id=name, marks=[] if name in EMBEDDED else [pytest.mark.real])
        for name, adapter in adapters.items()
    ]
