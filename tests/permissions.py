"""Permissions that policies of `deploy/template.yaml` grant although no test sees them in use, with the reason.

`tests/real/test_deployed.py` runs the functions with their roles in MiniStack, which checks each call as IAM does.
"""

from collections.abc import Mapping
from typing import Final

UNUSED: Final[Mapping[str, Mapping[str, str]]] = {
    "IngestPolicy": {
        "dynamodb:DeleteItem": "a user's many decisions, which move to more items than before",
        "s3:GetObject": "keys of tokens, with Signals=valkey and Auth=jwt",
        "s3:ListBucket": "makes that object's absence a 404",
    },
    "FeedPolicy": {
        "dynamodb:DeleteItem": "a user's many decisions, which move to more items than before",
    },
    "TickPolicy": {
        "dynamodb:DeleteItem": "forgotten users: the policy is that of the whole batch side",
        "s3:DeleteObject": "what a later run has replaced, at the third tick or by the nightly job",
    },
}
"""Policy -> action -> why."""
