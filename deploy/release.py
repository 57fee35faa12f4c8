"""`make deploy | diff | rollback | destroy STAGE=dev`: one stage of pingfeed on AWS (docs/aws.md).

    deploy     package, build and push the tick's image, upload, show the change set, ask, execute, roll out, smoke test
    diff       the same up to the change set, which is removed again
    rollback   the release before the one that serves: tick, feed and ingest; run again, the one before that
    destroy    delete the stack; buckets and table stay unless --with-data

Releases are listed in `releases.json` of the stage's artifacts. The API key of a first deployment is written to
var/<stage>.api-key, where smoke tests find it.
"""

import argparse
import hashlib
import json
import os
import re
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError

from deploy import clients, package
from deploy.rollout import Release, ReleaseError, other_slot, roll_out
from deploy.stack import FUNCTIONS, PINS, Stack
from deploy.uploads import PLATFORMS, REPOSITORY, Uploads
from pingfeed.core.errors import PingfeedError
from pingfeed.core.feature_set import FeatureSet
from pingfeed.core.ranker import pointer_key
from pingfeed.terminal import print_table

_MISSING: Final[Mapping[type, str]] = {
    NoRegionError: "No AWS region: name one, as in make deploy STAGE=dev REGION=eu-west-1, or set AWS_REGION.",
    NoCredentialsError: "No AWS credentials: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
}
_RELEASES: Final = "releases.json"
_KEPT: Final = 20
_SMOKE_S: Final = 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.release", description="One stage of pingfeed on AWS.")
    parser.add_argument("command", choices=["deploy", "diff", "rollback", "destroy"])
    parser.add_argument("stage")
    parser.add_argument("--architecture", choices=["", *PLATFORMS], default="", help="of a first deployment: arm64")
    parser.add_argument("--params", default="", help="parameters of the template, such as 'Auth=jwt FeedMemory=1769'")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--with-data", action="store_true", help="destroy: buckets and table too")
    chosen = parser.parse_args(arguments)
    try:
        if not re.fullmatch("[a-z][a-z0-9]{0,11}", chosen.stage):
            raise ReleaseError("STAGE must be like dev: up to 12 lower-case letters and digits.")
        given = _pairs(chosen.params)
        stage = Deployment(Stack(chosen.stage, _say), yes=chosen.yes)
        match chosen.command:
            case "rollback":
                stage.rollback()
            case "destroy":
                stage.destroy(with_data=chosen.with_data)
            case command:
                stage.deploy(chosen.architecture, given, only_show=command == "diff")
    except (PingfeedError, package.PackagingError, ClientError, BotoCoreError) as error:
        sys.stderr.write(f"{_MISSING.get(type(error), error)}\n")
        return 1
    return 0


class Deployment:
    """The commands on one stage; a `rollout.Platform`."""

    def __init__(self, stack: Stack, *, yes: bool = False, client: Callable[..., Any] = clients.client) -> None:
        self.stack, self._yes, self._client = stack, yes, client
        self._s3 = client("s3")
        account, region = client("sts").get_caller_identity()["Account"], self._s3.meta.region_name
        self._lake, self._artifacts = (f"{stack.name}-{kind}-{account}-{region}" for kind in ("lake", "artifacts"))
        self._uploads = Uploads(account, region, client, _say)
        self._key_file = package.ROOT / "var" / f"{stack.stage}.api-key"
        self._prepared = ""

    def deploy(self, architecture: str, given: Mapping[str, str], *, only_show: bool = False) -> None:
        """Bring the stage to this tree and these parameters, or only show what would change.

        Without an architecture the stage keeps its own.
        """
        if not only_show:
            self.stack.remove_failed()
        before = self.stack.parameters()
        architecture = architecture or before.get("Architecture", "arm64")
        values = {"Stage": self.stack.stage, "Architecture": architecture, **self._take_over(), **given}
        effective = {**before, **values}
        on_lambda = effective.get("Compute", "lambda") == "lambda"
        live = next(iter(self._releases()[-1:]), None) if on_lambda and before else None
        target = _target(effective, live)
        zips: dict[str, str] = {}
        if on_lambda:
            values |= {"PacketSlot": target.slot, **self._key(effective), **dict.fromkeys(PINS.values(), "")}
            made = package.zips(architecture, package.ROOT / "build")
            zips = {path.stem: self._uploads.put(path.read_bytes(), ".zip") for path in made}
            values["ImageUri"] = self._uploads.image(architecture)
        serving = self._serving(live) if live and live.digest == target.digest else live
        if serving and serving.digest != target.digest:
            values |= self._pins({**self.stack.live_versions(), "tick": ""})
        self._prepared, changes = self.stack.prepare(values, self._uploads.template(zips))
        _show(changes)
        if only_show or not changes:
            if changes:
                self.stack.discard(self._prepared)
            return
        self._confirm(f"Deploy {self.stack.name}?")
        if not on_lambda:
            self._change({})
            return
        roll_out(self, serving, target, _say)
        if not live:
            self.tick_everyone()
        # Releases of a stack that is gone have no versions any more.
        self._record(
            [*(self._releases() if live else []), msgspec.structs.replace(target, versions=self.stack.live_versions())]
        )
        self.smoke_test()

    def rollback(self) -> None:
        """Let the earlier release serve; if a roll-out stopped half way, the one that still serves."""
        releases, now = self._releases(), self.stack.live_versions()
        serving = self._serving(releases[-1]) if releases else None
        is_half_way = serving is not None and serving != releases[-1]
        if len(releases) < 2 and not is_half_way:
            raise ReleaseError(f"There is no release of {self.stack.name} to roll back to.")
        target = releases[-1] if is_half_way else releases[-2]
        _say(f"from versions {now} to {target.versions}, features {target.digest}")
        self._confirm(f"Roll {self.stack.name} back?")
        roll_out(self, serving, target, _say, train=False)
        self._record(releases if is_half_way else releases[:-1])
        self.smoke_test()

    def _serving(self, live: Release) -> Release:
        """The live release, or an unnamed one if a roll-out stopped half way: ticks are not those of `live` then."""
        return live if live.versions == self.stack.live_versions() else Release("unfinished")

    def run_ticks_of(self, release: Release) -> None:
        """One change set: the services stay at the versions that serve now."""
        self._change(self._pins({**self.stack.live_versions(), "tick": release.versions.get("tick", "")}))

    def serve(self, release: Release) -> None:
        """One change set: the aliases move, by the canary if there is one."""
        self._change(self._pins(release.versions))

    def tick_everyone(self) -> None:
        """Invokes the function."""
        _say("a tick for everyone ...")
        done = self.stack.tick()
        _say(f"tick {done.get('tick')}: {done.get('packets')} packets")

    def has_model(self, digest: str) -> bool:
        """By the pointer among the artifacts."""
        return self._artifact(pointer_key(digest, "model")) is not None

    def train(self) -> str:
        """`pingfeed train` on this machine, over the stage's lake, with the features of its parameters."""
        now = self.stack.parameters()
        chosen = {"LAKE_URL": f"s3://{self._lake}", "ARTIFACTS_URL": f"s3://{self._artifacts}"}
        chosen |= {"EVENTS_URL": f"firehose://{self.stack.name}-events"}
        chosen |= {f"{name}_URL": f"dynamodb://{self.stack.name}" for name in ("CANDIDATES", "SIGNALS", "LEASE")}
        chosen |= {"FACETS": now["Facets"], "ATTRIBUTES": now["Attributes"], "TICK_MINUTES": now["TickMinutes"]}
        chosen |= {"HOME": str(package.ROOT / "var" / self.stack.name)}
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PINGFEED_")}
        environ |= {f"PINGFEED_{name}": value for name, value in chosen.items()}
        code = "import sys; from pingfeed.cli import main; sys.exit(main(['train', '--wait', '900']))"
        _say("training on this machine ...")
        done = subprocess.run(  # noqa: S603  # our own interpreter, our own arguments
            [sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            raise ReleaseError("Training failed. The feed still serves the earlier release; ticks run the new one.")
        return done.stdout.strip()

    def destroy(self, *, with_data: bool = False) -> None:
        """Delete the stack; with_data, its buckets and table too."""
        data = f"s3://{self._lake}, s3://{self._artifacts}, the table {self.stack.name}"
        _say(f"{'Deleted' if with_data else 'Kept'}: {data}")
        _say(f"Kept, as stages share them: s3://{self._uploads.bucket}, the ECR repository {REPOSITORY}")
        if with_data:
            if input(f"All data of {self.stack.stage} will be lost. Type the stage's name: ") != self.stack.stage:
                raise ReleaseError("Not confirmed; nothing was deleted.")
        else:
            self._confirm(f"Delete the stack {self.stack.name}?")
        if self.stack.found():
            self.stack.delete()
        if with_data:
            self._delete_data()

    def smoke_test(self) -> None:
        """The API answers; with an API key, an event is accepted and a feed served."""
        outputs = self.stack.outputs()
        if target := outputs.get("DomainTarget"):
            _say(f"the DNS record of the domain (an alias or CNAME) must point to {target}")
        api, headers = outputs["ApiUrl"].rstrip("/"), {"Content-Type": "application/json"}
        calls: dict[str, Any] = dict.fromkeys(["/healthz", "/readyz", "/ingest/readyz"])
        if self._key_file.exists():
            headers["X-API-Key"] = self._key_file.read_text().strip()
            calls["/track-event"] = {"event_type": "user_updated", "user_id": "smoke-test"}
            calls["/get-feed?user_id=smoke-test"] = None
        else:
            _say(f"no key in {self._key_file}: an event and a feed are not tried")
        for path, body in calls.items():
            data = None if body is None else json.dumps(body).encode()
            _say(f"{_answered(urllib.request.Request(api + path, data, headers))} {path}")  # noqa: S310  # our own API
        _say(f"{self.stack.name} serves at {api}")

    def _change(self, values: Mapping[str, str]) -> None:
        """Execute the change set that was shown, once; afterwards one that sets these values."""
        change, self._prepared = self._prepared, ""
        if not change:
            change, changes = self.stack.prepare(values)
            if not changes:
                return
        self.stack.execute(change)

    def _pins(self, versions: Mapping[str, str]) -> dict[str, str]:
        return {PINS[name]: versions.get(name, "") for name in FUNCTIONS}

    def _take_over(self) -> dict[str, str]:
        """Whether a first deployment finds the data of an earlier stack of this stage."""
        if self.stack.found():
            return {}
        there = []
        for name in (self._lake, self._artifacts):
            with clients.unless("404"):
                self._s3.head_bucket(Bucket=name)
                there.append(name)
        with clients.unless("ResourceNotFoundException"):
            self._client("dynamodb").describe_table(TableName=self.stack.name)
            there.append(self.stack.name)
        if len(there) in (1, 2):
            raise ReleaseError(f"Of an earlier stack only {' and '.join(there)} is left: remove or restore the rest.")
        return {"TakeOver": "yes" if there else "no"}

    def _key(self, effective: Mapping[str, str]) -> dict[str, str]:
        """The digest of a new API key, if the stage has none and callers authenticate by key."""
        if effective.get("Auth", "api_key") != "api_key" or effective.get("ApiKeyHashes"):
            return {}
        if not self._key_file.exists():
            self._key_file.parent.mkdir(exist_ok=True)
            self._key_file.touch(0o600)
            self._key_file.write_text(secrets.token_urlsafe(32) + "\n")
            _say(f"a new API key is in {self._key_file}")
        return {"ApiKeyHashes": hashlib.sha256(self._key_file.read_text().strip().encode()).hexdigest()}

    def _releases(self) -> list[Release]:
        return msgspec.json.decode(self._artifact(_RELEASES) or b"[]", type=list[Release])

    def _record(self, releases: list[Release]) -> None:
        self._s3.put_object(Bucket=self._artifacts, Key=_RELEASES, Body=msgspec.json.encode(releases[-_KEPT:]))

    def _artifact(self, key: str) -> bytes | None:
        try:
            return bytes(self._s3.get_object(Bucket=self._artifacts, Key=key)["Body"].read())
        except ClientError as error:
            if clients.code_of(error) not in ("NoSuchKey", "NoSuchBucket"):
                raise
            return None

    def _delete_data(self) -> None:
        """Empty and delete both buckets, and delete the table."""
        for name in (self._lake, self._artifacts):
            with clients.unless("NoSuchBucket"):
                for page in self._s3.get_paginator("list_object_versions").paginate(Bucket=name):
                    if found := [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
                        keys = [{"Key": one["Key"], "VersionId": one["VersionId"]} for one in found]
                        self._s3.delete_objects(Bucket=name, Delete={"Objects": keys, "Quiet": True})
                self._s3.delete_bucket(Bucket=name)
        dynamodb = self._client("dynamodb")
        with clients.unless("ResourceNotFoundException"):
            dynamodb.update_table(TableName=self.stack.name, DeletionProtectionEnabled=False)
            dynamodb.get_waiter("table_exists").wait(TableName=self.stack.name)  # None is deleted while it is updated.
            dynamodb.delete_table(TableName=self.stack.name)
        _say("deleted")

    def _confirm(self, question: str) -> None:
        if not self._yes and input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
            raise ReleaseError("Not confirmed; nothing was changed.")


def _target(effective: Mapping[str, str], live: Release | None) -> Release:
    """This tree's release: other features than those that serve take the other slot."""
    facets, attributes = (
        tuple(filter(None, effective.get(name, default).split(",")))
        for name, default in (("Facets", "topics"), ("Attributes", ""))
    )
    digest = FeatureSet(facets, attributes).digest
    slot = live.slot if live else "a"
    return Release(digest, slot if live is None or live.digest == digest else other_slot(slot))


def _pairs(text: str) -> dict[str, str]:
    """`Auth=jwt FeedMemory=1769` as a dictionary."""
    words = text.split()
    if wrong := [word for word in words if "=" not in word]:
        raise ReleaseError(f"PARAMS must be like 'Auth=jwt FeedMemory=1769'; {wrong[0]} has no value.")
    return dict(word.split("=", 1) for word in words)


def _show(changes: Sequence[Mapping[str, Any]]) -> None:
    if not changes:
        _say("nothing changes")
        return
    heads = ("action", "resource", "type", "replaced")
    print_table(
        heads,
        [(c["Action"], c["LogicalResourceId"], c["ResourceType"], c.get("Replacement", "")) for c in changes],
    )


def _answered(request: urllib.request.Request, within_s: float = _SMOKE_S) -> int:
    """The status of a request; ReleaseError unless it succeeds in time: a new address needs a moment."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  # our own API
                return int(answer.status)
        except urllib.error.URLError as error:
            if time.monotonic() > deadline:
                raise ReleaseError(f"The smoke test failed: {request.full_url}: {error}") from error
            time.sleep(2)


def _say(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
