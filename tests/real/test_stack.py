"""Change sets, progress and failures of a stack, as MiniStack's CloudFormation answers."""

import time
from pathlib import Path

import boto3
import pytest

from deploy.rollout import ReleaseError
from deploy.stack import Stack
from tests.conformance.place import Place

pytestmark = pytest.mark.real
TEMPLATE = """
Transform: AWS::Serverless-2016-10-31
Parameters:
  Stage: {{Type: String}}
  Days: {{Type: String, Default: "1"}}
Resources:
  Bucket:
    Type: AWS::S3::Bucket
    DeletionPolicy: Retain
    Properties: {{BucketName: {0}-bucket}}
  Queue:
    Type: AWS::SQS::Queue
    Properties: {{QueueName: {0}-queue, DelaySeconds: !Ref Days}}
Outputs:
  ApiUrl: {{Value: !Ref Bucket}}
"""


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(request, tmp_path)


@pytest.fixture
def url(place: Place) -> str:
    """The uploaded template."""
    bucket = f"{place.aws}-uploads"
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="t.yaml", Body=TEMPLATE.format(place.aws).encode())
    params = {"Bucket": bucket, "Key": "t.yaml"}
    return str(s3.generate_presigned_url("get_object", Params=params)).partition("?")[0]


def test_a_stack_is_created_changed_and_deleted_by_change_sets(place: Place, url: str) -> None:
    told: list[str] = []
    stack = Stack(place.aws, told.append, sleep=lambda _: time.sleep(0.1))
    change, changes = stack.prepare({"Stage": "dev"}, url)
    assert {(one["Action"], one["LogicalResourceId"]) for one in changes} == {("Add", "Bucket"), ("Add", "Queue")}
    stack.discard(change)
    assert stack.found() is None

    stack.execute(stack.prepare({"Stage": "dev"}, url)[0])
    assert {line.split()[-1] for line in told} >= {"Bucket", "Queue"}
    assert stack.outputs() == {"ApiUrl": f"{place.aws}-bucket"}
    assert stack.prepare({})[1] == []

    change, changes = stack.prepare({"Days": "2"})
    assert [one["LogicalResourceId"] for one in changes] == ["Queue"]
    stack.execute(change)
    assert stack.parameters() == {"Stage": "dev", "Days": "2"}
    with pytest.raises(ReleaseError, match="no parameter Weeks"):
        stack.prepare({"Weeks": "2"})

    stack.delete()
    assert stack.found() is None
    boto3.client("s3").head_bucket(Bucket=f"{place.aws}-bucket")
