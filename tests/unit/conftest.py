"""DynamoDB in memory, with a candidate store and the user signals of two processes in it; a spool and its restarts."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pingfeed.adapters.candidates_dynamodb import DynamodbCandidateStore
from pingfeed.adapters.user_signals_dynamodb import DynamodbUserSignals
from pingfeed.aws import AwsClient
from pingfeed.core.retry import Backoff
from pingfeed.spool.spool import Spool
from tests.unit.fake_dynamodb import FakeDynamodb
from tests.unit.spools import OpenSpool


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeDynamodb:
    """Every client that is opened for AWS is this one, which has the tables `packets` and `signals`."""
    fake = FakeDynamodb({"packets": {}, "signals": {}})

    async def opened(_: AwsClient) -> FakeDynamodb:
        fake.opened += 1
        return fake

    monkeypatch.setattr(AwsClient, "_open", opened)
    return fake


@pytest.fixture
async def candidates(fake: FakeDynamodb) -> AsyncIterator[DynamodbCandidateStore]:
    url = "dynamodb://packets?writes_per_second=1000000"
    candidates = DynamodbCandidateStore(url, backoff=Backoff(first_s=0))
    yield candidates
    await candidates.close()


@pytest.fixture
async def signals(fake: FakeDynamodb) -> AsyncIterator[DynamodbUserSignals]:
    signals = DynamodbUserSignals("dynamodb://signals", backoff=Backoff(first_s=0))
    yield signals
    await signals.close()


other = signals
"""Another process with the same table."""


@pytest.fixture
async def open_spool(tmp_path: Path) -> AsyncIterator[OpenSpool]:
    """Opens the spool of a test again and again; closes the earlier one first, and the last at the end."""
    opened: list[Spool] = []

    async def close() -> None:
        for spool in opened:
            await spool.close()

    async def open_(**options: Any) -> Spool:
        await close()
        opened.append(Spool(tmp_path / "spool", **options))
        return opened[-1]

    yield open_
    await close()


@pytest.fixture
async def spool(open_spool: OpenSpool) -> Spool:
    """A new spool."""
    return await open_spool()
