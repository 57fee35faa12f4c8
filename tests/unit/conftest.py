"""DynamoDB in memory, with a candidate store and the user signals of two processes in it."""

from collections.abc import AsyncIterator

import pytest

from pingfeed.adapters.candidates_dynamodb import DynamodbCandidateStore
from pingfeed.adapters.user_signals_dynamodb import DynamodbUserSignals
from pingfeed.aws import AwsClient
from pingfeed.core.retry import Backoff
from tests.unit.fake_dynamodb import FakeDynamodb


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
