"""Which permissions the policies of `deploy/template.yaml` grant, and why those that no test uses are granted.

`tests/real/test_deployed.py` runs the functions with their roles in MiniStack, which checks each call as IAM does, and
compares what they used with `USED`. `tests/unit/test_template.py` compares both tables with the template.
"""

from collections.abc import Mapping
from typing import Final

_DYNAMODB: Final = {f"dynamodb:{verb}" for verb in ("BatchGetItem", "PutItem")}
_SIGNALS_TO_COME: Final = dict.fromkeys(
    (f"dynamodb:{verb}" for verb in ("BatchWriteItem", "DeleteItem", "GetItem", "UpdateItem")),
    "heads, folds and relations of signals",
)
USED: Final[Mapping[str, set[str]]] = {
    "IngestPolicy": {"firehose:DescribeDeliveryStream", "firehose:PutRecordBatch", "s3:PutObject", *_DYNAMODB},
    "FeedPolicy": {
        "firehose:DescribeDeliveryStream",
        "firehose:PutRecordBatch",
        "s3:GetObject",
        "s3:ListBucket",
        *_DYNAMODB,
    },
    "TickPolicy": {"s3:GetObject", "s3:PutObject", "s3:ListBucket", "s3:DeleteObject", "dynamodb:BatchWriteItem"},
}
"""Policy -> the actions that a run used."""

GRANTED_UNUSED: Final[Mapping[str, Mapping[str, str]]] = {
    "IngestPolicy": {
        "s3:GetObject": "keys of tokens, with Signals=valkey and Auth=jwt",
        "s3:ListBucket": "makes that object's absence a 404",
        **_SIGNALS_TO_COME,
    },
    "FeedPolicy": _SIGNALS_TO_COME,
    "TickPolicy": {
        "dynamodb:BatchGetItem": "signals rebuild",
        "dynamodb:PutItem": "signals rebuild, lease",
        "dynamodb:GetItem": "lease",
        "dynamodb:UpdateItem": "lease, signals rebuild",
        "dynamodb:DeleteItem": "forget, lease",
    },
}
"""Policy -> action -> why it is granted although no run uses it."""
