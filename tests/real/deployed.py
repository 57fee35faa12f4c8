"""`deploy/template.yaml` as stacks in MiniStack, which creates them, enforces their roles and runs their functions.

A function's zip holds this tree and botocore; its other libraries are this environment's. MiniStack runs zips under its
own Python, whatever the template says, so those of `deploy/package.py` (Python 3.13) cannot run there. The tick's image
needs a Docker engine, so here the tick runs in this process, with the variables and the role of its function.
"""

import hashlib
import io
import json
import os
import subprocess
import sys
import sysconfig
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import boto3
import botocore
import httpx
import pytest
from botocore.exceptions import ClientError

from batch.jobs.nightly import etl
from batch.training.train import train
from batch.wiring import build
from deploy.template import TEMPLATE
from pingfeed.core.clock import system_clock
from pingfeed.settings import PREFIX, load
from simulator.lake import write_history
from simulator.world import Spec, World
from tests.servers import AWS_ENVIRONMENT, ROOT, Server, ministack, running
from tests.unit.issuer import jwks

KEY: Final = "a key of the tests"
TICK_MS: Final = 900_000
USERS: Final = 40
ACCOUNT: Final = "000000000000"
PARAMETERS: Final = {
    "Real": "false",
    "ImageUri": f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/pingfeed@sha256:0",
    "ApiKeyHashes": hashlib.sha256(KEY.encode()).hexdigest(),
    "Architecture": "x86_64",
    "FeedBudgetMs": "5000",
    "RateLimit": "0",
}
_PACKAGES: Final = {"ingest": "ingest_api", "feed": "feed_api"}
_SERVICES: Final = ("dynamodb", "firehose", "s3", "sts")
_BUCKET: Final = "deployments"
_WITHIN_S: Final = 120.0


@cache
def zipped(package: str) -> bytes:
    """A function's code."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        # This environment's libraries come before MiniStack's; botocore is imported before any of our code.
        first = f"import sys\n\nsys.path.insert(1, {sysconfig.get_path('purelib')!r})\n"
        file.writestr(f"{package}/__init__.py", first)
        for path in files_in(ROOT / "pingfeed", ROOT / package):
            if path != ROOT / package / "__init__.py":
                file.write(path, path.relative_to(ROOT))
        libraries = Path(botocore.__file__).parents[1]
        for path in files_in(libraries / "botocore"):
            _, *folders = path.relative_to(libraries).parts
            if folders[0] != "data" or len(folders) == 2 or folders[1] in _SERVICES:
                file.write(path, path.relative_to(libraries))
    return target.getvalue()


def files_in(*folders: Path) -> Iterator[Path]:
    """The files of these folders."""
    for folder in folders:
        yield from (one for one in sorted(folder.rglob("*")) if one.is_file() and "__pycache__" not in one.parts)


class Cloud:
    """An account of AWS: a MiniStack that checks permissions."""

    def __init__(self, server: Server, used: Path) -> None:
        self.server, self._used = server, used
        self.cloudformation = boto3.client("cloudformation")
        self.s3 = boto3.client("s3")
        self.s3.create_bucket(Bucket=_BUCKET)

    def stage(self, name: str = "dev") -> "Stage":
        """A stage of pingfeed in it."""
        return Stage(self, name)

    def uploaded(self, template: str) -> str:
        """Upload the functions' code and the template; the template's URL."""
        for name, package in _PACKAGES.items():
            if (ROOT / package / "lambda_handler.py").exists():
                code = zipped(package)
                key = f"{name}-{hashlib.sha256(code).hexdigest()}.zip"
                self.s3.put_object(Bucket=_BUCKET, Key=key, Body=code)
                template = template.replace(f"../build/{name}.zip", f"s3://{_BUCKET}/{key}")
        key = f"{hashlib.sha256(template.encode()).hexdigest()}.yaml"
        self.s3.put_object(Bucket=_BUCKET, Key=key, Body=template.encode())
        return f"http://127.0.0.1:{self.server.port}/{_BUCKET}/{key}"

    def calls(self, session: str, allowed: str = "yes") -> list[str]:
        """The actions that a session (named after its function) has asked for and got ("yes"), or not ("no")."""
        lines = (line.split() for line in self._used.read_text().splitlines())
        return [action for by, action, _, answer in lines if (by, answer) == (session, allowed)]

    def peers(self) -> set[int]:
        """The ports to which processes of functions are connected, on any host; they are MiniStack's children."""
        workers = [one for one in Path("/proc").glob("[0-9]*") if _parent(one) == self.server.pid]
        held = {link for one in workers for link in _sockets(one)}
        lines = [
            line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]
        ]
        return {int(fields[2].rpartition(":")[2], 16) for fields in lines if f"socket:[{fields[9]}]" in held} - {0}


def _parent(process: Path) -> int:
    with suppress(OSError):
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _sockets(process: Path) -> list[str]:
    found = []
    for link in (process / "fd").iterdir():
        with suppress(OSError):
            found.append(str(link.readlink()))
    return found


class Stage:
    """One stack."""

    def __init__(self, cloud: Cloud, name: str) -> None:
        self.cloud, self.name = cloud, name
        self.lake = f"pingfeed-{name}-lake-{ACCOUNT}-us-east-1"
        self.artifacts = f"pingfeed-{name}-artifacts-{ACCOUNT}-us-east-1"
        self.outputs: Mapping[str, str] = {}
        self.tls_only: dict[str, str] = {}
        """The buckets' policies."""
        self.stack_id = ""
        self.web: httpx.Client

    @property
    def stack(self) -> str:
        """The stack's name."""
        return f"pingfeed-{self.name}"

    def deploy(self, template: str = TEMPLATE.read_text("utf-8"), **parameters: str) -> None:
        """Create or update the stack."""
        given = PARAMETERS | {"Stage": self.name} | parameters
        arguments: dict[str, Any] = {
            "StackName": self.stack,
            "TemplateURL": self.cloud.uploaded(template),
            "Capabilities": ["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
            "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
        }
        client = self.cloud.cloudformation
        self.stack_id = (client.update_stack if self.outputs else client.create_stack)(**arguments)["StackId"]
        stack = self._finished()
        assert stack["StackStatus"] in ("CREATE_COMPLETE", "UPDATE_COMPLETE"), self._failures()
        self.outputs = {one["OutputKey"]: one["OutputValue"] for one in stack["Outputs"]}
        # The buckets demand TLS, which this MiniStack does not speak.
        for bucket in (self.lake, self.artifacts):
            with suppress(ClientError):
                self.tls_only[bucket] = self.cloud.s3.get_bucket_policy(Bucket=bucket)["Policy"]
            self.cloud.s3.delete_bucket_policy(Bucket=bucket)
        if api := self.resources().get("Api"):
            self.web = httpx.Client(
                base_url=f"http://127.0.0.1:{self.cloud.server.port}",
                headers={"Host": f"{api[1]}.execute-api.localhost", "Authorization": f"Bearer {KEY}"},
                timeout=60,
            )

    def delete(self) -> None:
        """Delete the stack."""
        self.cloud.cloudformation.delete_stack(StackName=self.stack)
        assert self._finished()["StackStatus"] == "DELETE_COMPLETE", self._failures()
        self.outputs = {}

    def _finished(self) -> dict[str, Any]:
        deadline = time.monotonic() + _WITHIN_S
        while True:
            answer = self.cloud.cloudformation.describe_stacks(StackName=self.stack_id)
            stack: dict[str, Any] = answer["Stacks"][0]
            if not stack["StackStatus"].endswith("IN_PROGRESS"):
                return stack
            assert time.monotonic() < deadline, stack["StackStatus"]
            time.sleep(0.1)

    def _failures(self) -> list[str]:
        events = self.cloud.cloudformation.describe_stack_events(StackName=self.stack_id)["StackEvents"]
        return [
            f"{one['LogicalResourceId']}: {one.get('ResourceStatusReason')}"
            for one in events
            if one["ResourceStatus"].endswith("FAILED")
        ]

    def resources(self) -> dict[str, tuple[str, str]]:
        """The stack's resources: type and physical id by logical id."""
        pages = self.cloud.cloudformation.get_paginator("list_stack_resources").paginate(StackName=self.stack)
        return {
            one["LogicalResourceId"]: (one["ResourceType"], one["PhysicalResourceId"])
            for page in pages
            for one in page["StackResourceSummaries"]
        }

    def objects(self, bucket: str, prefix: str = "") -> dict[str, str]:
        """Key and ETag of a bucket's objects."""
        pages = self.cloud.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return {one["Key"]: one["ETag"] for page in pages for one in page.get("Contents", [])}

    def post(self, *events: Mapping[str, Any], path: str = "/track-events") -> Any:
        """One request through the HTTP API; every event must be accepted."""
        answer = self.web.post(path, json={"events": events})
        assert answer.status_code == 202, answer.text
        assert answer.json()["rejected"] == []
        return answer.json()

    def feed(self, user: str, **parameters: Any) -> Any:
        """One feed through the HTTP API."""
        answer = self.web.get("/get-feed", params={"user_id": user, **parameters})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def log(self, function: str) -> list[dict[str, Any]]:
        """What a function has logged, where that is JSON."""
        pages = boto3.client("logs").get_paginator("filter_log_events")
        found = pages.paginate(logGroupName=f"/aws/lambda/{self.stack}-{function}")
        lines = [line for page in found for event in page["events"] for line in event["message"].splitlines()]
        return [json.loads(line) for line in lines if line.startswith("{")]

    def variables(self, function: str) -> dict[str, str]:
        """The variables of a function."""
        found = boto3.client("lambda").get_function_configuration(FunctionName=f"{self.stack}-{function}")
        variables: dict[str, str] = found["Environment"]["Variables"]
        return variables

    def credentials(self, function: str) -> dict[str, str]:
        """A function's role, as variables."""
        role = boto3.client("lambda").get_function_configuration(FunctionName=f"{self.stack}-{function}")["Role"]
        iam, name = boto3.client("iam"), role.rpartition("/")[2]
        trust = iam.get_role(RoleName=name)["Role"]["AssumeRolePolicyDocument"]
        owner = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": "sts:AssumeRole"}
        both = json.dumps({**trust, "Statement": [*trust["Statement"], owner]})
        iam.update_assume_role_policy(RoleName=name, PolicyDocument=both)
        given = boto3.client("sts").assume_role(RoleArn=role, RoleSessionName=f"{self.stack}-{function}")["Credentials"]
        return {
            "AWS_ACCESS_KEY_ID": given["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": given["SecretAccessKey"],
            "AWS_SESSION_TOKEN": given["SessionToken"],
        }

    def asked(self, query: str) -> list[dict[str, str]]:
        """The rows of an Athena query, as text."""
        athena = boto3.client("athena")
        started = athena.start_query_execution(
            QueryString=query,
            QueryExecutionContext={"Database": f"pingfeed_{self.name}"},
            WorkGroup=self.outputs["WorkGroup"],
        )
        deadline = time.monotonic() + _WITHIN_S
        while True:
            about = athena.get_query_execution(QueryExecutionId=started["QueryExecutionId"])["QueryExecution"]["Status"]
            if about["State"] not in ("QUEUED", "RUNNING"):
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert about["State"] == "SUCCEEDED", about.get("StateChangeReason")
        rows = athena.get_query_results(QueryExecutionId=started["QueryExecutionId"])["ResultSet"]["Rows"]
        names, *values = [[one.get("VarCharValue", "") for one in row["Data"]] for row in rows]
        return [dict(zip(names, row, strict=True)) for row in values]


_TICK: Final = """
import json, sys
from batch.lambda_handler import handler

class Context:
    def get_remaining_time_in_millis(self):
        return 900_000

print(json.dumps(handler(json.loads(sys.argv[1]), Context())))
"""


@dataclass
class Town:
    """A stage that serves feeds of a model. `tmp` is its tick's disk."""

    stage: Stage
    tmp: Path

    def settle(self, learned: Path) -> None:
        """Put a history and a model into it, and run the first tick."""
        self.fill(learned)
        assert self.tick(everyone=True)["packets"] == USERS

    def fill(self, learned: Path) -> None:
        """Put a history and a model into it."""
        for folder, bucket in (("lake", self.stage.lake), ("artifacts", self.stage.artifacts)):
            for path in files_in(learned / folder):
                key = str(path.relative_to(learned / folder))
                self.stage.cloud.s3.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())

    def tick(self, *, everyone: bool = False) -> dict[str, Any]:
        """What EventBridge Scheduler has the function do, with its role and variables."""
        variables = self.stage.variables("tick") | self.stage.credentials("tick")
        variables[f"{PREFIX}HOME"] = str(self.tmp / "pingfeed")
        command = [sys.executable, "-c", _TICK, json.dumps({"everyone": everyone})]
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-4000:]
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        assert "busy" not in found
        return found


def learned_home(home: Path) -> Path:
    """The home of an installation that has a history until now and a model."""
    until_ms = system_clock() // TICK_MS * TICK_MS
    write_history(World.build(Spec(seed=3, users=USERS, pings=200, days=4, until_ms=until_ms)), home / "lake")
    batch = build(load({f"{PREFIX}HOME": str(home)}), quiet=True)
    etl(batch, until_ms // TICK_MS)
    assert train(batch, until_ms // TICK_MS).manifest is not None
    return home


@contextmanager
def publishing() -> Iterator[str]:
    """The address of a login server that publishes its keys."""

    class Keys(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            about = {"issuer": url, "jwks_uri": f"{url}/jwks.json"}
            body = jwks("rsa-1") if self.path == "/jwks.json" else json.dumps(about).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Keys)
    url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield url
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def cloud(folder: Path, **environ: str) -> Iterator[Cloud]:
    """An account with nothing in it, which this process uses meanwhile."""
    used = folder / "used"
    folder.mkdir(parents=True, exist_ok=True)
    used.touch()
    server = ministack(
        folder / "aws",
        AUTH="true",
        TRACED=str(used),
        PYTHONPATH=str(Path(__file__).parent / "traced"),
        DOCKER_HOST=f"unix://{folder}/no-engine",
        **environ,
    )
    with running(server), pytest.MonkeyPatch.context() as patch:
        for name, value in {**AWS_ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}"}.items():
            patch.setenv(name, value)
        patch.setenv("AWS_REGION", "us-east-1")
        patch.delenv("AWS_SESSION_TOKEN", raising=False)
        yield Cloud(server, used)
