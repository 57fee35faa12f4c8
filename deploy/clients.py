"""boto3 clients for provisioning, and their expected errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from pingfeed.aws import CONNECT_S, READ_S, region

ATTEMPTS: Final = 2
"""Of one call. More is for `provision`, which asks again until its own time is over."""


def client(service: str) -> Any:
    """A boto3 client of `service`, such as "glue". A call without a response ends after about twice `READ_S`.

    Region, credentials and `AWS_ENDPOINT_URL` come from the environment, as everywhere with AWS. Where they are missing
    it, or the first call, raises botocore's errors (`aws.translated`).
    """
    retries = {"total_max_attempts": ATTEMPTS, "mode": "standard"}
    config = Config(connect_timeout=CONNECT_S, read_timeout=READ_S, retries=retries)
    return boto3.Session().client(service, region_name=region(), config=config)


@contextmanager
def unless(code: str) -> Iterator[None]:
    """Leave the block quietly if AWS answers with this error code, such as that a thing exists already.

    with unless("AlreadyExistsException"):
        glue.create_database(...)
        return ["made it"]
    """
    try:
        yield
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") != code:
            raise
