"""The same as `tests/unit/test_leases.py`, with the lake on S3 and the lease in DynamoDB."""

from pathlib import Path

import pytest

from tests.conformance.place import Place
from tests.lease_world import interleavings

pytestmark = [pytest.mark.real, pytest.mark.timeout(2400)]


def test_two_homes_on_one_bucket_lose_and_repeat_nothing(place: Place, tmp_path: Path) -> None:
    interleavings(
        "S3 and DynamoDB",
        tmp_path,
        LAKE_URL=f"s3://{place.bucket}/lake",
        EVENTS_URL="firehose://unused",
        ARTIFACTS_URL=f"s3://{place.bucket}/artifacts",
        LEASE_URL=f"dynamodb://{place.table}",
    )
