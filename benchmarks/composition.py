"""How long a newcomer waits: `docker compose --profile demo up`, until a feed of ten comes and until a model ranks it.

    make bench-containers

In a project and on ports of its own, with volumes that are new and images that are built before the clock starts.
"""

import os
import time

import httpx

from simulator.world import user_id
from tests.containers.engine import Composition, build

LIMIT_S = 600


def main() -> None:
    build()
    composition = Composition(f"pingfeed-bench-{os.getpid()}", profile="demo")
    began = time.monotonic()
    try:
        composition.run("up", "--detach", seconds=LIMIT_S)
        for what, is_there in (("a feed of ten pings", _has_ten), ("one that a trained model ranked", _is_ranked)):
            while not is_there(composition):
                assert time.monotonic() < began + LIMIT_S, f"{what} did not come within {LIMIT_S} s"
                time.sleep(0.5)
            print(f"{what}: {time.monotonic() - began:.0f} s")
    finally:
        composition.down()


def _feed(composition: Composition) -> dict[str, object]:
    try:
        answer = composition.web.get(f"{composition.feed}/get-feed", params={"user_id": user_id(42)})
    except httpx.TransportError:
        return {}
    return dict(answer.json()) if answer.status_code == 200 else {}


def _has_ten(composition: Composition) -> bool:
    items = _feed(composition).get("items", [])
    return isinstance(items, list) and len(items) == 10


def _is_ranked(composition: Composition) -> bool:
    return _feed(composition).get("model_id") is not None


if __name__ == "__main__":
    main()
