"""`make deploy`, `diff`, `rollback` and `destroy`: what happens in which order, on an account in memory."""

import re
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy import bucket, package, release, uploads
from deploy.release import Deployment
from deploy.rollout import Release, ReleaseError
from deploy.stack import PINS, Stack
from deploy.uploads import Uploads
from pingfeed.core.feature_set import FeatureSet
from pingfeed.settings import load
from tests.unit.fake_cloudformation import Account, Registry

TEMPLATE = """\
Parameters:
  Stage:
    Type: String
{}
Resources:
  FeedFunction:
      CodeUri: ../build/feed.zip
      CodeUri: ../build/ingest.zip
"""
NAMES = [
    "Architecture",
    "TakeOver",
    "PacketSlot",
    "ApiKeyHashes",
    "ImageUri",
    "Facets",
    "Attributes",
    "TickMinutes",
    "Release",
]
OLD, NEW = FeatureSet().digest, FeatureSet(attributes=("length",)).digest


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Account:
    """An account without anything; a tree whose packaging and image take no time."""
    template = tmp_path / "template.yaml"
    template.write_text(TEMPLATE.format("\n".join(f"  {name}:\n    Type: String" for name in [*NAMES, *PINS.values()])))
    zips = [tmp_path / "ingest.zip", tmp_path / "feed.zip"]
    for path in zips:
        path.write_bytes(path.name.encode())
    monkeypatch.setattr(package, "ROOT", tmp_path)
    monkeypatch.setattr(uploads, "TEMPLATE", template)
    monkeypatch.setattr(package, "zips", lambda *_: zips)
    monkeypatch.setattr(bucket, "ensure", lambda _: [])
    monkeypatch.setattr(Uploads, "image", lambda *_: "repository@sha256:1")
    monkeypatch.setattr(release, "_answered", lambda request: 200)
    found = Account()

    def train(self: Deployment) -> str:
        found.log.append(f"train with {found.stack and found.stack['Attributes']}")
        found.objects[f"pointers/{NEW}/model.json"] = b"{}"
        return "The model is live."

    monkeypatch.setattr(Deployment, "train", train)
    return found


@pytest.fixture
def stage(account: Account) -> Callable[[], Deployment]:
    """A new run of the command, which asks nothing."""

    def begun() -> Deployment:
        stack = Stack("dev", lambda _: None, client=account.client, sleep=lambda _: None)
        return Deployment(stack, yes=True, client=account.client)

    return begun


def test_a_first_deployment_makes_everything_and_a_first_tick(
    account: Account, stage: Callable[[], Deployment]
) -> None:
    stage().deploy("arm64", {})
    assert account.log == ["ingest -> 1", "feed -> 1", "tick -> 1", "tick for everyone by 1"]
    assert account.stack is not None
    assert account.stack["TakeOver"] == "no"
    assert re.fullmatch("[0-9a-f]{64}", account.stack["ApiKeyHashes"])
    template = next(body for name, body in account.objects.items() if name.endswith(".yaml")).decode()
    assert "../build" not in template
    assert (
        len(re.findall("CodeUri: s3://pingfeed-deploy-123456789012-eu-west-1/deploy/[0-9a-f]{32}.zip", template)) == 2
    )


def test_another_value_of_a_parameter_alone_publishes_new_versions(
    account: Account, stage: Callable[[], Deployment]
) -> None:
    """SAM compares a function's properties without the values of parameters: it goes by `Release` only."""
    seen = []
    for given in ({}, {}, {"ApiKeyHashes": "ab" * 32}, {"Attributes": "length"}, {}):
        stage().deploy("arm64", given)
        assert account.stack is not None
        seen.append(account.stack["Release"])
    first, again, keys, features, last = seen
    assert first == again
    assert features == last
    assert len({first, keys, features}) == 3
    stage().rollback()
    assert (account.stack or {})["Release"] == last, "a rollback publishes nothing"


def test_a_template_without_functions_has_no_local_path_either(account: Account) -> None:
    """CloudFormation checks CodeUri also where Compute=none leaves the function out."""
    address = Uploads("123456789012", "eu-west-1", account.client, lambda _: None).template({})
    text = account.objects[address.rpartition("deploy/")[2]].decode()
    assert text.count("CodeUri: s3://pingfeed-deploy-123456789012-eu-west-1/deploy/none.zip") == 2
    assert "../build" not in text


def test_with_the_same_features_one_change_set_moves_everything(
    account: Account, stage: Callable[[], Deployment]
) -> None:
    stage().deploy("arm64", {})
    account.log.clear()
    stage().deploy("arm64", {})
    assert account.log == ["ingest -> 2", "feed -> 2", "tick -> 2"]
    account.log.clear()
    stage().rollback()
    assert account.log == ["ingest -> 1", "feed -> 1", "tick -> 1"]


def test_with_other_features_tick_everyone_and_training_come_before_the_traffic(
    account: Account, stage: Callable[[], Deployment]
) -> None:
    stage().deploy("arm64", {})
    account.log.clear()
    account.busy = 2
    stage().deploy("arm64", {"Attributes": "length"})
    everyone = "tick for everyone by 2"
    assert account.log == ["tick -> 2", everyone, "train with length", everyone, "ingest -> 2", "feed -> 2"]
    assert account.stack is not None
    assert account.stack["PacketSlot"] == "b"

    account.log.clear()
    stage().rollback()
    assert account.log == ["tick -> 1", "tick for everyone by 1", "ingest -> 1", "feed -> 1"]
    with pytest.raises(ReleaseError, match="no release of pingfeed-dev to roll back to"):
        stage().rollback()
    account.log.clear()
    stage().deploy("arm64", {"Attributes": "length"})
    assert account.log == ["tick -> 3", "tick for everyone by 3", "ingest -> 3", "feed -> 3"], "its model is there"


def test_a_model_that_the_gate_refuses_leaves_the_traffic_where_it_is(
    account: Account, stage: Callable[[], Deployment], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage().deploy("arm64", {})
    account.objects[f"pointers/{OLD}/model.json"] = b"{}"
    monkeypatch.setattr(Deployment, "train", lambda _: "The gate refused it.")
    account.log.clear()
    with pytest.raises(ReleaseError, match=r"The gate refused it\. The feed still serves the earlier release"):
        stage().deploy("arm64", {"Attributes": "length"})
    assert account.aliases == {"ingest": "1", "feed": "1", "tick": "2"}

    account.log.clear()
    stage().rollback()
    assert account.log == ["tick -> 1", "tick for everyone by 1"]
    assert account.aliases == {"ingest": "1", "feed": "1", "tick": "1"}


def test_a_deployment_of_the_earlier_features_after_a_half_way_one_refreshes_the_packets_first(
    account: Account, stage: Callable[[], Deployment], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage().deploy("arm64", {})
    account.objects[f"pointers/{OLD}/model.json"] = b"{}"
    monkeypatch.setattr(Deployment, "train", lambda _: "The gate refused it.")
    with pytest.raises(ReleaseError):
        stage().deploy("arm64", {"Attributes": "length"})
    account.log.clear()
    stage().deploy("arm64", {"Attributes": ""})
    assert account.log == ["tick -> 3", "tick for everyone by 3", "ingest -> 3", "feed -> 3"]
    assert account.stack is not None
    assert account.stack["PacketSlot"] == "a"


def test_a_failed_change_set_is_explained_and_recorded_nowhere(
    account: Account, stage: Callable[[], Deployment]
) -> None:
    stage().deploy("arm64", {})
    account.fails = "The role cannot be assumed"
    with pytest.raises(ReleaseError, match=r"UPDATE_ROLLBACK_COMPLETE\. FeedFunction: The role cannot be assumed"):
        stage().deploy("arm64", {})
    assert account.aliases == {"ingest": "1", "feed": "1", "tick": "1"}
    assert len(stage()._releases()) == 1


def test_a_failed_creation_is_removed_and_its_data_taken_over(
    account: Account, stage: Callable[[], Deployment]
) -> None:
    account.fails = "The address is taken"
    with pytest.raises(ReleaseError, match="ROLLBACK_COMPLETE"):
        stage().deploy("arm64", {})
    account.fails, account.data = "", {"lake", "artifacts", "table"}
    stage().deploy("arm64", {})
    assert account.stack is not None
    assert account.stack["TakeOver"] == "yes"


def test_a_destroyed_stage_is_deployed_again_over_its_data(account: Account, stage: Callable[[], Deployment]) -> None:
    stage().deploy("arm64", {})
    stage().destroy()
    assert account.stack is None
    assert account.data == {"lake", "artifacts", "table"}
    stage().deploy("arm64", {})
    assert account.stack is not None
    assert account.stack["TakeOver"] == "yes"
    assert len(stage()._releases()) == 1, "versions of the deleted stack are gone"

    account.stack, account.data = None, {"lake", "table"}
    with pytest.raises(ReleaseError, match=r"only pingfeed-dev-lake-123456789012-eu-west-1 and pingfeed-dev is left"):
        stage().deploy("arm64", {})


def test_a_stage_keeps_its_architecture(account: Account, stage: Callable[[], Deployment]) -> None:
    stage().deploy("x86_64", {})
    stage().deploy("", {"Attributes": "length"})
    assert account.stack is not None
    assert account.stack["Architecture"] == "x86_64"


def test_diff_changes_nothing(
    account: Account, stage: Callable[[], Deployment], capsys: pytest.CaptureFixture[str]
) -> None:
    stage().deploy("arm64", {}, only_show=True)
    assert (account.stack, account.log, account.changes) == (None, [], {})
    assert "FeedAlias" in capsys.readouterr().out


def test_data_is_deleted_only_after_its_stage_was_typed(
    account: Account, stage: Callable[[], Deployment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table only once its protection is off: DynamoDB deletes none while it updates it."""
    stage().deploy("arm64", {})
    monkeypatch.setattr("builtins.input", lambda _: "yes")
    with pytest.raises(ReleaseError, match="nothing was deleted"):
        stage().destroy(with_data=True)
    assert account.stack is not None
    monkeypatch.setattr("builtins.input", lambda _: "dev")
    stage().destroy(with_data=True)
    assert account.data == set()


def test_without_a_yes_nothing_is_changed(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = Stack("dev", lambda _: None, client=account.client, sleep=lambda _: None)
    monkeypatch.setattr("builtins.input", lambda _: "")
    with pytest.raises(ReleaseError, match="nothing was changed"):
        Deployment(stack, client=account.client).deploy("arm64", {})
    assert account.stack is None


def test_a_parameter_that_the_template_lacks_is_named(stage: Callable[[], Deployment]) -> None:
    with pytest.raises(ReleaseError, match="no parameter Colour"):
        stage().deploy("arm64", {"Colour": "red"})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["deploy", "Dev"], "STAGE must be like dev"),
        (["deploy", "dev", "--params", "Auth"], "Auth has no value"),
        (["diff", "dev"], "credentials|region"),
    ],
)
def test_a_wrong_call_is_one_sentence(
    arguments: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    assert release.main(arguments) == 1
    told = capsys.readouterr().err
    assert re.search(sentence, told)
    assert "Traceback" not in told


def test_slots_alternate_with_the_features() -> None:
    live = Release(OLD, "b")
    assert release._target({}, live) == Release(OLD, "b")
    assert release._target({"Attributes": "length"}, live) == Release(NEW, "a")


def test_the_image_is_pushed_once_and_named_by_its_digest(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    registry = Registry()
    monkeypatch.setattr(uploads, "_docker", registry.docker)
    made = Uploads("1", "eu-west-1", lambda name: registry if name == "ecr" else account.client(name), lambda _: None)
    for _ in range(2):
        assert made.image("arm64") == "registry/pingfeed-lambda-batch@sha256:d"
    build = ("build", "linux/arm64", "")
    # The password is no argument: those are visible to all users of the machine.
    assert registry.said == [build, ("login", "secret"), ("tag", ""), ("push", ""), build]


def test_training_runs_over_the_stages_lake_with_its_features(
    account: Account, stage: Callable[[], Deployment], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Deployment.train
    stage().deploy("arm64", {"Attributes": "length", "Facets": "topics", "TickMinutes": "15"})
    monkeypatch.undo()
    assert Deployment.train is not real
    ran: list[dict[str, str]] = []

    def run(command: list[str], *, env: dict[str, str], **_: Any) -> Any:
        ran.append({name: value for name, value in env.items() if name.startswith("PINGFEED_")})
        return SimpleNamespace(returncode=len(ran) - 1, stdout="It is live.\n")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("PINGFEED_FACETS", "of another installation")
    assert stage().train() == "It is live."
    assert load(ran[0]).events_url == "firehose://pingfeed-dev-events", "the command starts with these settings"
    assert ran[0]["PINGFEED_LAKE_URL"] == "s3://pingfeed-dev-lake-123456789012-eu-west-1"
    assert (ran[0]["PINGFEED_FACETS"], ran[0]["PINGFEED_ATTRIBUTES"]) == ("topics", "length")
    with pytest.raises(ReleaseError, match="Training failed"):
        stage().train()


def test_before_a_custom_domain_is_tried_the_target_of_its_dns_record_is_named(
    stage: Callable[[], Deployment], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first deployment makes the target, so the record cannot be there before."""

    def unknown(_: object) -> int:
        raise ReleaseError("The smoke test failed.")

    outputs = {"ApiUrl": "https://api.example", "DomainTarget": "d-1.execute-api.eu-west-1.amazonaws.com"}
    monkeypatch.setattr(Stack, "outputs", lambda _: outputs)
    monkeypatch.setattr(release, "_answered", unknown)
    with pytest.raises(ReleaseError):
        stage().smoke_test()
    assert "must point to d-1.execute-api.eu-west-1.amazonaws.com" in capsys.readouterr().err


def test_a_smoke_test_that_fails_names_the_address() -> None:
    with pytest.raises(ReleaseError, match=r"The smoke test failed: http://127.0.0.1:9/healthz"):
        release._answered(urllib.request.Request("http://127.0.0.1:9/healthz"), within_s=0)


def test_without_a_region_or_credentials_a_command_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert release.main(["diff", "dev"]) == 1
    assert "REGION=eu-west-1" in capsys.readouterr().err
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert release.main(["diff", "dev"]) == 1
    assert "AWS_PROFILE" in capsys.readouterr().err
