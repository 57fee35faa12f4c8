"""A call of AWS that nobody answers leaves `provision` the time to ask again."""

import pytest

from deploy import clients
from deploy.provision import WAIT_S
from tests.servers import AWS_ENVIRONMENT


@pytest.mark.parametrize("service", ["dynamodb", "firehose", "glue", "iam", "s3", "sts"])
def test_a_call_that_is_not_answered_ends_well_within_the_wait(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in AWS_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    config = clients.client(service).meta.config
    longest_s = config.retries["total_max_attempts"] * (config.connect_timeout + config.read_timeout)
    assert longest_s < WAIT_S / 2
