"""Makes MiniStack write down which permission each role used: a line `session action resource allowed` in $TRACED.

MiniStack with AUTH=true checks every call against the caller's policies, as IAM does. Its process imports this module
at its start, because its folder is on PYTHONPATH.
"""

import os
from typing import Any

if "TRACED" in os.environ and "_LAMBDA_FUNCTION_ARN" not in os.environ:
    from ministack.core import iam_evaluator
    from ministack.core.responses import get_account_id

    checked = iam_evaluator.enforce

    def enforce(access_key_id: str, iam_action: str, service: str, region: str, **more: Any) -> Any:
        denied = checked(access_key_id, iam_action, service, region, **more)
        principal = iam_evaluator.resolve_principal(access_key_id or "", get_account_id())
        session = getattr(principal, "arn", "?").rpartition("/")[2]
        with open(os.environ["TRACED"], "a") as file:
            file.write(f"{session} {iam_action} {more.get('resource_arn', '*')} {'no' if denied else 'yes'}\n")
        return denied

    iam_evaluator.enforce = enforce
