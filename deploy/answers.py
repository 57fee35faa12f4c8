"""AWS's answers that say no more than that a thing is there already, or is not."""

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import ClientError


@contextmanager
def unless(code: str) -> Iterator[None]:
    """Leave the block where AWS answers with this code; every other error goes on.

    with unless("AlreadyExistsException"):
        glue.create_database(...)
        return ["made it"]
    """
    try:
        yield
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") != code:
            raise
