"""boto3 clients for provisioning, and their expected errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from pingfeed.aws import CONNECT_S, READ_S, region

ATTEMPTS: Final = 2
"""Attempts per call. `provision` itself retries until its time is up."""


def client(service: str, *, read_s: float = READ_S, attempts: int = ATTEMPTS) -> Any:
    """A boto3 client of a service such as "glue". A call without a response ends after about `attempts` times `read_s`.

    Region, credentials and `AWS_ENDPOINT_URL` come from the environment. If they are missing, this or the first call
    raises botocore's errors (`aws.translated`).
    """
    retries = {"total_max_attempts": attempts, "mode": "standard"}
    config = Config(connect_timeout=CONNECT_S, read_timeout=read_s, retries=retries)
    return boto3.Session().client(service, region_name=region(), config=config)


def code_of(error: ClientError) -> str:
    """The error code in AWS's response, such as "404" or "AlreadyExistsException"."""
    return str(error.response.get("Error", {}).get("Code"))


@contextmanager
def unless(code: str) -> Iterator[None]:
    """Leave the block without an error if AWS responds with this error code.

    with unless("AlreadyExistsException"):
        glue.create_database(...)
        return ["created it"]
    """
    try:
        yield
    except ClientError as error:
        if code_of(error) != code:
            raise
