"""docs/moving-in.md, command by command: what it says a newcomer may type is typed here.

RankLens is no part of this project: `tests/conftest.py` says how a test finds it.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from batch.evaluate.clicked import read_metarank
from tests.journeys.conftest import Running, wait_for

PAGE: Final = Path(__file__).parents[2] / "docs" / "moving-in.md"
_COMMAND: Final = (
    f'#!/bin/sh\nexec "{sys.executable}" -c "import sys; from pingfeed.cli import main; sys.exit(main())" "$@"\n'
)


def blocks_under(heading: str) -> list[str]:
    """The shell blocks of a section."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^```sh\n(.*?)^```", section, flags=re.DOTALL | re.MULTILINE)


class Newcomer:
    """Runs the page's commands in an empty folder; only the port differs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        (folder / "bin" / "pingfeed").write_text(_COMMAND)
        (folder / "bin" / "pingfeed").chmod(0o755)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PINGFEED_")}
        self.environ = clean | {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            self.port = str(reserved.getsockname()[1])
        self.log = folder / "serve.log"
        self.serving: Running | None = None

    def type_in(self, block: str) -> str:
        """Run a block; a `serve` at its end stays in the background. What it printed."""
        commands, serve, arguments = block.replace("8001", self.port).partition("pingfeed serve")
        assert serve, "the block does not end in serving"
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                ["bash", "-euc", f"{commands}\n: > serving; exec pingfeed serve{arguments}"],
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.serving = Running("feed", process, self.log)
        wait_for(lambda: self._serves(process), "the commands before serve", 500)
        self.serving.await_ready()
        return self.log.read_text(errors="replace")

    def _serves(self, process: "subprocess.Popen[bytes]") -> bool:
        """Whether the commands before `serve` are done."""
        assert process.poll() is None, f"a command failed: {self.log.read_text(errors='replace')}"
        return (self.folder / "serving").exists()

    def ask(self, block: str) -> dict[str, Any]:
        """Run a block that prints one JSON object."""
        command = ["bash", "-euc", block.replace("8001", self.port)]
        printed = subprocess.run(command, cwd=self.folder, env=self.environ, capture_output=True, check=True)
        answer: dict[str, Any] = json.loads(printed.stdout)
        return answer

    def leave(self) -> None:
        """Stop serving."""
        if self.serving is not None and self.serving.process.poll() is None:
            self.serving.kill()


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Newcomer]:
    if shutil.which("bash") is None or shutil.which("curl") is None:
        pytest.skip("the page's commands need bash and curl")
    one = Newcomer(tmp_path)
    yield one
    one.leave()


def test_a_csv_becomes_a_feed(newcomer: Newcomer) -> None:
    commands, curl = blocks_under("A CSV of your own")
    printed = newcomer.type_in(commands)
    assert "dry run: nothing was written" in printed
    assert printed.count("1 record rejected") == 2
    assert re.search(r"(?m)^7 +8 +timestamp ", printed)
    answer = newcomer.ask(curl)
    shown = {item["ping_id"]: item["creator_id"] for item in answer["items"]}
    assert {"lamp-3": "lumen", "vase-2": "kiln"}.items() <= shown.items()
    assert answer["tick_ms"] is not None


@pytest.mark.timeout(600)
def test_ranklens_becomes_a_feed_of_films_that_its_user_was_not_shown(newcomer: Newcomer, ranklens: Path) -> None:
    (newcomer.folder / "events.jsonl.gz").symlink_to(ranklens)
    commands, curl = blocks_under("RankLens, from the file to a feed")
    newcomer.type_in(commands)
    answer = newcomer.ask(curl)
    films = [item["ping_id"] for item in answer["items"]]
    log = read_metarank(ranklens)
    lists = [one.ping_ids for one in log.rankings if one.user_id == answer["user_id"]]
    assert len(lists) > 0
    assert len(set(films)) == 10
    assert not set(films) & {film for shown in lists for film in shown}
    # Exploration may pick any new ping, also one that the log lists without describing it.
    assert set(films) <= {item.ping_id for item in log.items} | {ping for one in log.rankings for ping in one.ping_ids}
    assert answer["model_id"] is not None
    assert answer["degraded"] == []
