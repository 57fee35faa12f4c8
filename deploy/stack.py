"""One stage's CloudFormation stack `pingfeed-<stage>`: its change sets, its progress, and releases on its functions.

Every deployment is a change set. The template's parameters `FeedVersion`, `IngestVersion` and `TickVersion` say which
published version of a function its alias `live` names, "" being the one that the deployment itself publishes: so the
tick can change before the traffic moves, and a rollback names earlier versions. Versions keep their code and variables.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from botocore.exceptions import ClientError

from deploy import clients
from deploy.rollout import ReleaseError

FUNCTIONS: Final = ("ingest", "feed", "tick")
PINS: Final = {name: f"{name.capitalize()}Version" for name in FUNCTIONS}
"""Function -> the parameter that pins its version."""
TICK_S: Final = 900.0
"""Lambda's limit for an invocation."""
_RELEASE: Final = "Release"
"""The parameter that says whether a deployment publishes new versions."""
_POLL_S: Final = 3.0
_BUSY_TRIES: Final = 60
_CAPABILITIES: Final = ["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"]
_UNCHANGED: Final = ("didn't contain changes", "No updates are to be performed")


class Stack:
    """The stack of a stage. `client` makes boto3 clients, `say` shows progress."""

    def __init__(
        self,
        stage: str,
        say: Callable[[str], object],
        *,
        client: Callable[..., Any] = clients.client,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.stage, self.name, self.say, self._client, self._sleep = stage, f"pingfeed-{stage}", say, client, sleep
        self.cloudformation = client("cloudformation")

    def found(self) -> dict[str, Any] | None:
        """What CloudFormation says of the stack, None if there is none."""
        try:
            found: dict[str, Any] = self.cloudformation.describe_stacks(StackName=self.name)["Stacks"][0]
        except ClientError as error:
            if clients.code_of(error) == "ValidationError" and "does not exist" in str(error):
                return None
            raise
        return None if found["StackStatus"] in ("REVIEW_IN_PROGRESS", "DELETE_COMPLETE") else found

    def parameters(self) -> dict[str, str]:
        """The values that the stack has now."""
        return {
            one["ParameterKey"]: one.get("ParameterValue", "") for one in (self.found() or {}).get("Parameters", [])
        }

    def outputs(self) -> dict[str, str]:
        """Such as ApiUrl."""
        return {one["OutputKey"]: one["OutputValue"] for one in (self.found() or {}).get("Outputs", [])}

    def prepare(self, given: Mapping[str, str], template_url: str = "") -> tuple[str, list[dict[str, Any]]]:
        """A change set's name and its changes, none if everything is as asked; parameters not given keep their values.

        Without a template, the stack's own.
        """
        before = self.parameters()
        template: dict[str, Any] = {"TemplateURL": template_url} if template_url else {"UsePreviousTemplate": True}
        summary = (
            self.cloudformation.get_template_summary(TemplateURL=template_url)["Parameters"] if template_url else []
        )
        declared = {one["ParameterKey"] for one in summary} or set(before)
        if template_url and _RELEASE in declared:
            defaults = {one["ParameterKey"]: one.get("DefaultValue", "") for one in summary}
            given = {**given, _RELEASE: _release_of(template_url, {**defaults, **before, **given})}
        if unknown := sorted(given.keys() - declared):
            raise ReleaseError(f"The template has no parameter {unknown[0]}; deploy/template.yaml lists them.")
        values: list[dict[str, Any]] = [
            {"ParameterKey": name, "ParameterValue": value} for name, value in given.items()
        ]
        values += [
            {"ParameterKey": name, "UsePreviousValue": True} for name in sorted(declared & set(before) - set(given))
        ]
        change = f"release-{time.time_ns() // 1_000_000}"
        self.cloudformation.create_change_set(
            StackName=self.name,
            ChangeSetName=change,
            ChangeSetType="UPDATE" if self.found() else "CREATE",
            Parameters=values,
            Capabilities=_CAPABILITIES,
            **template,
        )
        return change, self._changes(change)

    def _changes(self, change: str) -> list[dict[str, Any]]:
        while True:
            made = self.cloudformation.describe_change_set(StackName=self.name, ChangeSetName=change)
            reason = made.get("StatusReason", "")
            if made["Status"] == "FAILED" and any(words in reason for words in _UNCHANGED):
                self.discard(change)
                return []
            if made["Status"] == "FAILED":
                raise ReleaseError(f"CloudFormation refuses the change set: {reason}")
            if made["Status"] == "CREATE_COMPLETE":
                break
            self._sleep(_POLL_S)
        changes = list(made["Changes"])
        while more := made.get("NextToken"):
            made = self.cloudformation.describe_change_set(StackName=self.name, ChangeSetName=change, NextToken=more)
            changes += made["Changes"]
        return [one["ResourceChange"] for one in changes]

    def remove_failed(self) -> None:
        """Remove a stack whose creation failed: it cannot be updated."""
        if (self.found() or {}).get("StackStatus") == "ROLLBACK_COMPLETE":
            self.say(f"the stack {self.name} was never complete; removing what is left of it")
            self.delete()

    def discard(self, change: str) -> None:
        """Remove a change set without executing it, and the empty stack that a first one leaves."""
        self.cloudformation.delete_change_set(StackName=self.name, ChangeSetName=change)
        if self.found() is None:
            self.cloudformation.delete_stack(StackName=self.name)

    def execute(self, change: str) -> None:
        """Execute a change set, showing each resource; ReleaseError if CloudFormation rolled it back."""
        known = self._event_ids()
        self.cloudformation.execute_change_set(StackName=self.name, ChangeSetName=change)
        self._follow(known, {"CREATE_COMPLETE", "UPDATE_COMPLETE"})

    def delete(self) -> None:
        """Delete the stack; what its template retains stays."""
        known = self._event_ids()
        self.cloudformation.delete_stack(StackName=self.name)
        self._follow(known, {"DELETE_COMPLETE"})

    def _event_ids(self) -> set[str]:
        return {event["EventId"] for event in self._events()}

    def _events(self) -> list[dict[str, Any]]:
        """The latest events, oldest first; none of a stack that is gone."""
        try:
            latest = self.cloudformation.describe_stack_events(StackName=self.name)["StackEvents"]
        except ClientError as error:
            if clients.code_of(error) != "ValidationError":
                raise
            return []
        return list(reversed(latest))

    def _follow(self, known: set[str], good: set[str]) -> None:
        """Show the events that are not known until the stack is at rest."""
        reasons = []
        while True:
            # The status first: its last events are shown after it.
            status = (self.found() or {"StackStatus": "DELETE_COMPLETE"})["StackStatus"]
            for event in self._events():
                if event["EventId"] not in known and event["ResourceStatus"].endswith(("_COMPLETE", "_FAILED")):
                    self.say(f"{event['ResourceStatus']:<24} {event['LogicalResourceId']}")
                    if event["ResourceStatus"].endswith("_FAILED") and "cancelled" not in event.get(
                        "ResourceStatusReason", ""
                    ):
                        reasons.append(f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason', 'failed')}")
                known.add(event["EventId"])
            if status in good:
                return
            if status.endswith(("_COMPLETE", "_FAILED")):
                raise ReleaseError(f"The stack {self.name} is {status}. {'; '.join(reasons)}".strip())
            self._sleep(_POLL_S)

    def live_versions(self) -> dict[str, str]:
        """Function -> the version that its alias `live` names; empty without functions."""
        functions, found = self._client("lambda"), {}
        for name in FUNCTIONS:
            with clients.unless("ResourceNotFoundException"):
                found[name] = functions.get_alias(FunctionName=f"{self.name}-{name}", Name="live")["FunctionVersion"]
        return found

    def tick(self) -> dict[str, Any]:
        """Run a tick for everyone; what it returns. Waits while another run holds the lease."""
        functions = self._client("lambda", read_s=TICK_S + 10, attempts=1)
        for _ in range(_BUSY_TRIES):
            answer = functions.invoke(FunctionName=f"{self.name}-tick", Qualifier="live", Payload=b'{"everyone": true}')
            done: dict[str, Any] = json.loads(answer["Payload"].read())
            if "FunctionError" in answer:
                raise ReleaseError(f"The tick failed: {done.get('errorMessage', 'see its log')}")
            if "busy" not in done:
                return done
            self._sleep(10)
        raise ReleaseError("Another run kept the lease for ten minutes.")


def _release_of(template_url: str, values: Mapping[str, str]) -> str:
    """A digest of the template, whose address has those of the code, and of the values that functions may depend on."""
    matter = {name: value for name, value in values.items() if name not in (_RELEASE, *PINS.values())}
    return hashlib.sha256(json.dumps([template_url, matter], sort_keys=True).encode()).hexdigest()[:32]
