"""Permissions that policies of `deploy/template.yaml` grant although no test sees them in use, with the reason.

`tests/real/test_deployed.py` runs the functions with their roles in MiniStack, which checks each call as IAM does.
"""

from collections.abc import Mapping
from typing import Final

_SIGNALS: Final = dict.fromkeys(
    (f"dynamodb:{verb}" for verb in ("BatchWriteItem", "DeleteItem", "GetItem", "UpdateItem")),
    "heads, folds and relations of signals",
)
UNUSED: Final[Mapping[str, Mapping[str, str]]] = {
    "IngestPolicy": {
        "s3:GetObject": "keys of tokens, with Signals=valkey and Auth=jwt",
        "s3:ListBucket": "makes that object's absence a 404",
        **_SIGNALS,
    },
    "FeedPolicy": _SIGNALS,
    "TickPolicy": {
        "dynamodb:DeleteItem": "forgotten users; the lease",
        "dynamodb:GetItem": "the lease",
        "dynamodb:UpdateItem": "rebuilt signals; the lease",
        "s3:DeleteObject": "what a later run has replaced",
    },
}
"""Policy -> action -> why."""
