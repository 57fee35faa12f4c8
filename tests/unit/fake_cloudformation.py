"""CloudFormation, Lambda, S3, ECR and DynamoDB as `deploy/release.py` calls them: one account, in memory.

A change set that brings a template publishes a version of each function; the aliases follow the pins.
"""
# ruff: noqa: N803 - parameters have the names that AWS gave them

import base64
import io
import json
import re
from types import SimpleNamespace
from typing import Any

from botocore.exceptions import ClientError

FUNCTIONS = ("ingest", "feed", "tick")


def error(code: str, message: str = "") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "call")


class Account:
    """Everything; `log` is what happened to functions, in order."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.stack: dict[str, str] | None = None
        self.status = ""
        self.data: set[str] = set()
        self.objects: dict[str, bytes] = {}
        self.versions = dict.fromkeys(FUNCTIONS, 0)
        self.aliases: dict[str, str] = {}
        self.changes: dict[str, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self.busy = 0
        self.fails = ""
        """The reason for which the next execution is rolled back."""

    def client(self, service: str, **_: Any) -> Any:
        made: dict[str, Any] = {
            "cloudformation": _CloudFormation(self),
            "lambda": _Lambda(self),
            "s3": _S3(self),
            "dynamodb": _DynamoDB(self),
            "sts": SimpleNamespace(get_caller_identity=lambda: {"Account": "123456789012"}),
        }
        return made[service]


class _CloudFormation:
    def __init__(self, account: Account) -> None:
        self._account = account

    def describe_stacks(self, *, StackName: str) -> Any:
        if self._account.stack is None:
            raise error("ValidationError", f"Stack with id {StackName} does not exist")
        values = [{"ParameterKey": name, "ParameterValue": value} for name, value in self._account.stack.items()]
        outputs = [{"OutputKey": "ApiUrl", "OutputValue": "https://api.example"}]
        return {"Stacks": [{"StackStatus": self._account.status, "Parameters": values, "Outputs": outputs}]}

    def get_template_summary(self, *, TemplateURL: str) -> Any:
        text = self._account.objects[TemplateURL.rpartition("deploy/")[2]].decode()
        names = re.findall(r"^  (\w+):$", text.partition("Parameters:")[2].partition("\nR")[0], re.MULTILINE)
        return {"Parameters": [{"ParameterKey": name} for name in names]}

    def create_change_set(self, *, ChangeSetName: str, ChangeSetType: str, Parameters: Any, **more: Any) -> None:
        assert (ChangeSetType == "CREATE") == (self._account.stack is None)
        before = self._account.stack or {}
        values = {p["ParameterKey"]: p.get("ParameterValue", before.get(p["ParameterKey"], "")) for p in Parameters}
        template = more.get("TemplateURL", "")
        self._account.changes[ChangeSetName] = {"values": values, "template": template, "same": values == before}

    def describe_change_set(self, *, StackName: str, ChangeSetName: str) -> Any:
        change = self._account.changes[ChangeSetName]
        if change["same"] and not change["template"]:
            return {"Status": "FAILED", "StatusReason": "The submitted information didn't contain changes."}
        resource = {"Action": "Modify", "LogicalResourceId": "FeedAlias", "ResourceType": "AWS::Lambda::Alias"}
        return {"Status": "CREATE_COMPLETE", "Changes": [{"ResourceChange": resource}]}

    def delete_change_set(self, *, StackName: str, ChangeSetName: str) -> None:
        del self._account.changes[ChangeSetName]

    def execute_change_set(self, *, StackName: str, ChangeSetName: str) -> None:
        account, change = self._account, self._account.changes.pop(ChangeSetName)
        event = {"EventId": str(len(account.events)), "LogicalResourceId": "FeedFunction"}
        if account.fails:
            account.status = "UPDATE_ROLLBACK_COMPLETE" if account.stack else "ROLLBACK_COMPLETE"
            account.stack = account.stack or change["values"]
            account.events.append({**event, "ResourceStatus": "UPDATE_FAILED", "ResourceStatusReason": account.fails})
            return
        account.status = "UPDATE_COMPLETE" if account.stack else "CREATE_COMPLETE"
        account.stack = change["values"]
        account.data |= {"lake", "artifacts", "table"}
        account.events.append({**event, "ResourceStatus": account.status})
        for name in FUNCTIONS:
            account.versions[name] += bool(change["template"])
            wanted = change["values"].get(f"{name.capitalize()}Version") or str(account.versions[name])
            if account.aliases.get(name) != wanted:
                account.aliases[name] = wanted
                account.log.append(f"{name} -> {wanted}")

    def describe_stack_events(self, *, StackName: str) -> Any:
        return {"StackEvents": list(reversed(self._account.events))}

    def delete_stack(self, *, StackName: str) -> None:
        self._account.stack, self._account.aliases = None, {}


class _Lambda:
    def __init__(self, account: Account) -> None:
        self._account = account

    def get_alias(self, *, FunctionName: str, Name: str) -> Any:
        name = FunctionName.rpartition("-")[2]
        if name not in self._account.aliases:
            raise error("ResourceNotFoundException")
        return {"FunctionVersion": self._account.aliases[name]}

    def invoke(self, *, FunctionName: str, Qualifier: str, Payload: bytes) -> Any:
        assert (FunctionName, Qualifier, json.loads(Payload)) == ("pingfeed-dev-tick", "live", {"everyone": True})
        if self._account.busy:
            self._account.busy -= 1
            return {"Payload": io.BytesIO(b'{"busy": "another run"}')}
        self._account.log.append(f"tick for everyone by {self._account.aliases['tick']}")
        return {"Payload": io.BytesIO(b'{"tick": 5, "packets": 7}')}


class _S3:
    meta = SimpleNamespace(region_name="eu-west-1")

    def __init__(self, account: Account) -> None:
        self._account = account

    def head_bucket(self, *, Bucket: str) -> None:
        if Bucket.split("-")[2] not in self._account.data:
            raise error("404")

    def put_object(self, *, Bucket: str, Key: str, Body: bytes) -> None:
        self._account.objects[Key.removeprefix("deploy/")] = Body

    def get_object(self, *, Bucket: str, Key: str) -> Any:
        if Key not in self._account.objects:
            raise error("NoSuchKey")
        return {"Body": io.BytesIO(self._account.objects[Key])}

    def generate_presigned_url(self, _: str, *, Params: Any) -> str:
        return f"https://{Params['Bucket']}.s3.amazonaws.com/{Params['Key']}?signed"

    def get_paginator(self, _: str) -> Any:
        return SimpleNamespace(paginate=lambda Bucket: [])

    def delete_bucket(self, *, Bucket: str) -> None:
        self._account.data.discard(Bucket.split("-")[2])


class _DynamoDB:
    def __init__(self, account: Account) -> None:
        self._account, self._is_updating = account, False

    def describe_table(self, *, TableName: str) -> None:
        if "table" not in self._account.data:
            raise error("ResourceNotFoundException")

    def update_table(self, *, TableName: str, DeletionProtectionEnabled: bool) -> None:
        assert not DeletionProtectionEnabled
        self._is_updating = True

    def get_waiter(self, state: str) -> Any:
        assert state == "table_exists"

        def wait(*, TableName: str) -> None:
            self._is_updating = False

        return SimpleNamespace(wait=wait)

    def delete_table(self, *, TableName: str) -> None:
        if self._is_updating:
            raise error("ResourceInUseException")
        self._account.data.discard("table")


class Registry:
    """ECR and Docker as `_image` uses them."""

    def __init__(self) -> None:
        self.tags: set[str] = set()
        self.said: list[tuple[str, ...]] = []

    def create_repository(self, *, repositoryName: str) -> None:
        raise error("RepositoryAlreadyExistsException")

    def describe_repositories(self, *, repositoryNames: list[str]) -> Any:
        return {"repositories": [{"repositoryUri": f"registry/{repositoryNames[0]}"}]}

    def describe_images(self, *, repositoryName: str, imageIds: Any) -> Any:
        if imageIds[0]["imageTag"] not in self.tags:
            raise error("ImageNotFoundException")
        return {"imageDetails": [{"imageDigest": "sha256:d"}]}

    def get_authorization_token(self) -> Any:
        token = base64.b64encode(b"AWS:secret").decode()
        return {"authorizationData": [{"authorizationToken": token, "proxyEndpoint": "https://registry"}]}

    def docker(self, *words: str, stdin: str = "") -> str:
        self.said.append((words[0], *[word for word in words if "linux/" in word], stdin))
        if words[0] == "push":
            self.tags.add(words[-1].rpartition(":")[2])
        return f"sha256:{'5' * 64}" if words[0] == "build" else ""
