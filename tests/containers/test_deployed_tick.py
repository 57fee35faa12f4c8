"""The tick's image as Lambda runs it, in a stage that `deploy/template.yaml` deployed into MiniStack."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.containers.engine import BUILD_S, docker, require_engine
from tests.real.deployed import USERS, Town, cloud, learned_home
from tests.runtime_api import RuntimeApi
from tests.servers import ROOT

IMAGE = "pingfeed-lambda-batch"
LOCKED_DOWN = ["--read-only", "--tmpfs=/tmp", "--memory=2g", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
TICK_S = 300

pytestmark = pytest.mark.skipif(
    "AS lambda-batch\n" not in (ROOT / "Dockerfile").read_text(), reason="the tick has no image yet"
)


@contextmanager
def function(environ: dict[str, str]) -> Iterator[RuntimeApi]:
    """The image with these variables, on this machine's network; it asks this Runtime API for events."""
    api = RuntimeApi()
    threading.Thread(target=api.serve_forever, daemon=True).start()
    own = {"AWS_LAMBDA_RUNTIME_API": api.address, "AWS_LAMBDA_FUNCTION_NAME": "tick", **environ}
    given = [f"--env={name}={value}" for name, value in own.items()]
    made = docker("run", "--detach", "--network=host", *LOCKED_DOWN, *given, IMAGE).strip()
    try:
        yield api
    finally:
        docker("rm", "--force", made)
        api.shutdown()
        api.server_close()


def invoked(api: RuntimeApi, event: Any) -> Any:
    api.events.put(("invocation", event))
    outcome, body = api.answers.get(timeout=TICK_S)
    assert outcome == "response", body
    return body


def test_the_image_ticks_in_a_deployed_stage_and_the_feed_serves_its_packets(tmp_path: Path) -> None:
    require_engine()
    build = ("build", "--quiet", "--provenance=false", "--target", "lambda-batch", "--tag", IMAGE, ".")
    docker(*build, seconds=BUILD_S)
    with cloud(tmp_path / "cloud") as account:
        stage = account.stage()
        stage.deploy()
        Town(stage, tmp_path).fill(learned_home(tmp_path / "learned"))
        environ = stage.variables("tick") | stage.credentials("tick")
        environ |= {"AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"]}
        with function(environ) as api:
            first = invoked(api, {"everyone": True})
            assert (first["packets"], first["left_out"], first["quarantined"]) == (USERS, 0, 0)
            assert f"snapshots/{first['tick']}/snapshot.bin" in stage.objects(stage.artifacts, "snapshots/")
            page = stage.feed("user-0001")
            assert (len(page["items"]), page["degraded"], page["model_id"] is None) == (10, [], False)
            liked = {"event_type": "like", "user_id": "user-0001", "ping_id": page["items"][0]["ping_id"]}
            stage.post(liked)
            assert invoked(api, {})["tick"] >= first["tick"]
