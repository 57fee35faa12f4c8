"""Processes that are copied after the import, as SnapStart starts many environments from one, share nothing unique."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.http_api import AUTH, events
from tests.unit.fake_aws import FakeAws, fake_aws
from tests.unit.lambda_world import BAD, ENVIRON

FIRST_S = 1.5
NAMELESS = {"event_type": "like", "user_id": "ann", "ping_id": "p1"}
SCRIPT = """
import json, os, random, sys, time
import ingest_api.lambda_handler as imported

class Context:
    aws_request_id = "one"
    def get_remaining_time_in_millis(self):
        return 22_000

def invoke():
    answer = imported.handler(event, Context())
    return [os.getpid(), answer["statusCode"], answer["headers"]["x-request-id"], random.random()]

event = json.loads(os.environ["EVENT"])
sys.stdout.write(json.dumps("imported") + "\\n")
sys.stdout.flush()
time.sleep(FIRST_S)
children = []
for _ in range(2):
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.write(write, json.dumps(invoke()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    sys.stdout.write(os.read(read, 10_000).decode() + "\\n")
sys.stdout.write(json.dumps(invoke()) + "\\n")
"""


@pytest.fixture(scope="module")
def story() -> tuple[FakeAws, int, list[list[Any]]]:
    """The fake, how many calls the import made, and what two copies and then the original say of an invocation."""
    with fake_aws(first_s=FIRST_S) as aws:
        environ = {
            **ENVIRON,
            **AUTH,
            **aws.environ,
            "_HANDLER": "ingest_api.lambda_handler.handler",
            "AWS_LAMBDA_FUNCTION_NAME": "ingest",
            "EVENT": json.dumps(events(NAMELESS, BAD)),
            "PYTHONPATH": ":".join(filter(None, sys.path)),
        }
        command = [sys.executable, "-c", SCRIPT.replace("FIRST_S", str(FIRST_S))]
        with subprocess.Popen(command, env=environ, stdout=-1, stderr=-1, text=True) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            imported = len(aws.calls)
            rest, errors = process.communicate(timeout=60)
        told = [json.loads(line) for line in rest.splitlines() if line.startswith("[")]
        assert (json.loads(first), len(told)) == ("imported", 3), errors
        return aws, imported, told


Story = tuple[FakeAws, int, list[list[Any]]]


def test_the_import_opens_connections(story: Story) -> None:
    aws, imported, _ = story
    assert {"GET /credentials", "DescribeDeliveryStream", "PutItem"} <= {call.what for call in aws.calls[:imported]}


def test_request_ids_event_ids_objects_and_draws_differ(story: Story) -> None:
    aws, _, told = story
    assert [status for _, status, _, _ in told] == [202] * 3
    assert len({request_id for _, _, request_id, _ in told}) == 3
    assert len({draw for _, _, _, draw in told}) == 3
    assert len({row["event_id"] for row in aws.rows()}) == 3
    assert len(aws.objects) == 3


def test_no_copy_uses_an_inherited_connection(story: Story) -> None:
    aws, imported, _ = story
    at_import = {call.port for call in aws.calls[:imported]}
    puts = [call.port for call in aws.calls if call.what == "PutRecordBatch"]
    assert len(set(puts)) == 3
    assert not set(puts[:2]) & at_import
    assert puts[2] in at_import, "the original's own connections live on"


def test_credentials_that_expired_meanwhile_are_fetched_again(story: Story) -> None:
    aws, imported, _ = story
    later = [call.key for call in aws.calls[imported:] if call.key]
    assert "AKIA0" not in later
    assert len(set(later)) > 1
