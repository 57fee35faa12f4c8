"""docs/app.md: its JavaScript client runs against both services; the other two use only existing names.

The client is extracted from the page. Between it and the ingest service stands a gate, which truncates or replaces
responses.
"""

import gzip
import json
import re
import shutil
import socket
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx
import pyarrow.parquet as pq
import pytest

from feed_api.schema import Feed, Item
from ingest_api.receiver import Result
from pingfeed.core.events import CLIENT_TYPES
from tests.journeys.conftest import Services, wait_for
from tests.servers import lacking

PAGE: Final = Path(__file__).parents[2] / "docs" / "app.md"
OLDEST_NODE: Final = 20
PINGS: Final = 30

DRIVER: Final = """
import { Pingfeed } from "./pingfeed.mjs";

const { ingest, feed, user } = JSON.parse(process.argv[2]);
const waits = [], refused = [], later = globalThis.setTimeout;
Math.random = () => 0.01;
globalThis.setTimeout = (work, ms, ...more) => { // noted where the client calls, and never long
  if (new Error().stack.includes("pingfeed.mjs")) waits.push(Math.round(ms));
  return later(work, ms === 2_000 ? 10 : ms, ...more);
};
const onRefused = (status, answer, batch) => refused.push({ status, answer, events: batch.length });
const app = new Pingfeed({ ingest, feed, user, onRefused });
const settled = async () => {
  while (app.timer || app.sending || app.pause) await new Promise((done) => later(done, 5));
};
const scenario = async () => { %s };
const result = await scenario();
process.stdout.write(JSON.stringify({ result, waits, refused }), () => process.exit(0));
"""


@dataclass
class Gate:
    """A proxy before ingest: each request takes the next step of a script; later ones pass.

    cut: the client gets no response. half: it gets half of one. unheard: ingest gets no request either. A status: the
    gate responds itself; `503:60` adds `Retry-After: 60`.
    """

    ingest_url: str
    script: list[str] = field(default_factory=list)
    requests: list[tuple[str, bytes]] = field(default_factory=list)
    answers: list[httpx.Response] = field(default_factory=list)

    def begin(self, *script: str) -> None:
        """Set the script and forget earlier requests."""
        self.script[:], self.requests[:], self.answers[:] = script, [], []

    def batches(self) -> list[list[dict[str, Any]]]:
        """The events of each request so far."""
        return [json.loads(gzip.decompress(body))["events"] for _, body in self.requests]

    def forward(self, body: bytes, headers: dict[str, str]) -> httpx.Response:
        """Ask ingest."""
        self.answers.append(httpx.post(f"{self.ingest_url}/track-events", content=body, headers=headers, timeout=30))
        return self.answers[-1]


def handler_of(gate: Gate) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            headers = {name: self.headers.get(name, "") for name in ("Content-Encoding", "Content-Type")}
            body = self.rfile.read(int(self.headers["Content-Length"]))
            gate.requests.append((headers["Content-Encoding"], body))
            step = gate.script.pop(0) if gate.script else "pass"
            status, _, seconds = step.partition(":")
            if status.isdecimal():
                self.reply(int(status), b"<p>not JSON</p>", 15, seconds)
            elif step != "unheard":
                told = gate.forward(body, headers)
                whole = len(told.content)
                shown = {"cut": 0, "half": whole // 2}.get(step, whole)
                if shown:
                    self.reply(told.status_code, told.content[:shown], whole)
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

        def reply(self, status: int, content: bytes, length: int, retry_after: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            if retry_after:
                self.send_header("Retry-After", retry_after)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing."""

    return Handler


@dataclass
class Town:
    """Both services with some pings, the gate before ingest, and node."""

    services: Services
    gate: Gate
    gate_url: str
    feed_url: str
    node: str
    folder: Path

    def play(self, scenario: str, user: str, *script: str) -> dict[str, Any]:
        """Run the body of an async function that has the client as `app`; what it returned, waited and reported."""
        self.gate.begin(*script)
        (self.folder / "pingfeed.mjs").write_text(javascript())
        (self.folder / "driver.mjs").write_text(DRIVER % scenario)
        urls = json.dumps({"ingest": self.gate_url, "feed": self.feed_url, "user": user})
        command = [self.node, str(self.folder / "driver.mjs"), urls]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr.decode()
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def ids(self) -> list[list[str]]:
        """The event ids of each request."""
        return [[event["event_id"] for event in batch] for batch in self.gate.batches()]

    def landed(self, user: str) -> list[dict[str, Any]]:
        """The user's rows in the lake, once every event accepted so far is there."""
        last = str(uuid.uuid4())
        event = {"event_type": "follow", "event_id": last, "user_id": "the-last-one", "creator_id": "c"}
        httpx.post(f"{self.gate.ingest_url}/track-event", json=event).raise_for_status()

        def look() -> list[dict[str, Any]] | None:
            files = (self.services.home / "lake" / "events").rglob("[!._]*.parquet")
            rows = [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]
            return rows if any(row["event_id"] == last for row in rows) else None

        rows = wait_for(look, "the last event to land")
        return [row for row in rows if row["user_id"] == user and row["event_type"] != "feed_served"]


def node_or_skip() -> str:
    found = shutil.which("node")
    version = subprocess.run([found, "--version"], capture_output=True, check=True).stdout.decode() if found else "v0."
    if not found or int(version.lstrip("v").partition(".")[0]) < OLDEST_NODE:
        lacking(f"the client of docs/app.md runs with node {OLDEST_NODE} or later; here is {found and version}")
    return found


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    node, folder = node_or_skip(), tmp_path_factory.mktemp("app")
    services = Services(folder / "home")
    # A busy machine must not degrade the feeds.
    services.environ |= {"PINGFEED_SINK_FLUSH_SECONDS": "0.2", "PINGFEED_FEED_BUDGET_MS": "5000"}
    with ExitStack() as ends:
        ends.callback(services.end)
        gate = Gate(services.start("ingest").url)
        server = ends.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler_of(gate)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        ends.callback(server.shutdown)
        publish(services, gate.ingest_url)
        feed = services.start("feed")
        yield Town(services, gate, f"http://127.0.0.1:{server.server_port}", feed.url, node, folder)


def publish(services: Services, ingest_url: str) -> None:
    """Some pings, and a snapshot of them."""
    created = [
        {"event_type": "ping_created", "ping_id": f"p{n}", "creator_id": f"c{n % 7}", "topics": [f"t{n % 5}"]}
        for n in range(PINGS)
    ]
    httpx.post(f"{ingest_url}/track-events", json={"events": created}).raise_for_status()
    assert services.launch("tick", "--all").process.wait(60) == 0


BY_CREATOR = {"follow", "unfollow", "block", "unblock", "mute", "unmute"}


@cache
def blocks(language: str) -> tuple[str, ...]:
    return tuple(re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE))


def javascript() -> str:
    (client,) = [block for block in blocks("js") if "export class Pingfeed" in block]
    return client


ACTS: Final = """
  const page = await app.feed();
  for (const item of page.items) app.track("impression", item);
  app.track("view", page.items[3], { watch_time_ratio: 0.85, country: "DE" });
  app.track("follow", page.items[4]);
  await settled();
  return page;
"""
"""A user's twelve events about one feed, sent by the two-second timer."""


@pytest.mark.parametrize("step", ["cut", "half", "unheard"])
def test_a_batch_counts_once_although_its_response_was_cut_off(town: Town, step: str) -> None:
    town.play(ACTS, user := f"user-{step}", step)
    first, second = town.ids()
    assert len(set(first)) == 12
    assert second == first
    last = town.gate.answers[-1].json()
    assert (last["accepted"], last["duplicates"]) == ((12, 0) if step == "unheard" else (0, 12))
    assert sorted(row["event_id"] for row in town.landed(user)) == sorted(first)


def test_request_id_position_and_sent_at_reach_the_lake_and_a_follow_its_ping(town: Town) -> None:
    page = town.play(ACTS, "user-echo")["result"]
    assert page["request_id"]
    rows = town.landed("user-echo")
    impressions = {row["ping_id"]: row["position"] for row in rows if row["event_type"] == "impression"}
    assert impressions == {item["ping_id"]: item["position"] for item in page["items"]}
    assert sorted(impressions.values()) == list(range(10))
    assert {row["request_id"] for row in rows} == {page["request_id"]}
    # All clocks are this machine's, so these are in order; the time stamp moves by the duration of the request.
    assert all(max(row["sent_ms"], row["timestamp_ms"]) <= row["received_ms"] for row in rows)
    assert all(row["extra"] is None for row in rows)
    by_type = {row["event_type"]: row for row in rows}
    view, follow, followed = by_type["view"], by_type["follow"], page["items"][4]
    assert (view["watch_time_ratio"], view["country"], view["position"]) == (0.85, "DE", 3)
    assert (follow["creator_id"], follow["ping_id"]) == (followed["creator_id"], followed["ping_id"])
    assert follow["position"] is None


def test_batches_are_gzip_and_hold_at_most_a_hundred_events_in_order(town: Town) -> None:
    many = """
      const { items } = await app.feed();
      for (let n = 0; n < 250; n++) app.track("view", items[n % 10], { watch_time_ratio: n / 100 });
      await settled();
    """
    town.play(many, "user-many")
    assert [encoding for encoding, _ in town.gate.requests] == ["gzip"] * 3
    assert [len(batch) for batch in town.gate.batches()] == [100, 100, 50]
    sent = [event["watch_time_ratio"] for batch in town.gate.batches() for event in batch]
    assert sent == [n / 100 for n in range(250)]
    assert len(town.landed("user-many")) == 250


def test_retries_back_off_and_respect_retry_after(town: Town) -> None:
    played = town.play(ACTS, "user-later", "unheard", "200", "503:1", "429", "401")
    # The random part is 0.01 of 1 s, 2 s, 4 s, 8 s and 16 s here; the first wait gathers the batch.
    assert played["waits"] == [2000, 10, 20, 1000 + 40, 80, 160]
    assert played["refused"] == []
    assert town.ids() == [town.ids()[0]] * 6
    assert len(town.landed("user-later")) == 12


def test_an_invalid_event_is_reported_and_never_sent_again(town: Town) -> None:
    wrong = """
      const { items } = await app.feed();
      app.track("like", items[0]);
      app.track("view", items[1], { watch_time_ratio: 0 / 0 });
      app.track("share", items[2]);
      await settled();
    """
    (refused,) = town.play(wrong, "user-wrong")["refused"]
    (rejected,) = json.loads(refused["answer"])["rejected"]
    assert (refused["status"], rejected["index"], rejected["field"]) == (202, 1, "watch_time_ratio")
    assert len(town.gate.requests) == 1
    assert sorted(row["event_type"] for row in town.landed("user-wrong")) == ["like", "share"]


@pytest.mark.parametrize("status", [400, 403, 413, 422])
def test_a_rejected_batch_is_never_sent_again(town: Town, status: int) -> None:
    twice = """
      const { items } = await app.feed();
      for (const item of [items[0], items[1]]) {
        app.track("like", item);
        await settled();
      }
    """
    played = town.play(twice, f"user-{status}", str(status))
    assert [(one["status"], one["events"]) for one in played["refused"]] == [(status, 1)]
    first, second = town.ids()
    assert first != second
    assert len(town.landed(f"user-{status}")) == 1


def test_a_waiting_hide_is_sent_before_the_next_feed(town: Town) -> None:
    hide = """
      const [hidden] = (await app.feed()).items;
      app.track("hide", hidden);
      return [hidden.ping_id, (await app.feed()).items.map((item) => item.ping_id)];
    """
    hidden, shown = town.play(hide, "user-hide")["result"]
    assert len(shown) == 10
    assert hidden not in shown


def test_the_next_page_continues_after_the_first(town: Town) -> None:
    pages = """
      const first = await app.feed();
      return [first, await app.feed(first.next_cursor)];
    """
    first, second = town.play(pages, "user-pages")["result"]
    assert [item["position"] for item in second["items"]] == list(range(10, 20))
    assert {item["request_id"] for item in second["items"]} == {second["request_id"]} != {first["request_id"]}


def test_a_feed_is_shown_while_events_have_to_wait(town: Town) -> None:
    waiting = """
      const { items } = await app.feed();
      app.track("like", items[0]);
      await app.feed();
      app.track("like", items[1]);
      return [(await app.feed()).items.length, app.queue.length];
    """
    assert town.play(waiting, "user-waiting", "503:60")["result"] == [10, 2]
    assert len(town.gate.requests) == 1


def known_names() -> set[str]:
    """Every field of an event, of a feed and of the response to events."""
    events = {name for struct in CLIENT_TYPES.values() for name in struct.__struct_fields__}
    answers = {name for struct in (Feed, Item, Result) for name in struct.__struct_fields__}
    return events | answers | {"event_type", "events"}


def as_snake(name: str) -> str:
    return re.sub(r"([A-Z])", r"_\1", name).lower()


@pytest.mark.parametrize("language", ["swift", "kotlin"])
def test_the_other_clients_use_only_existing_names(language: str) -> None:
    (client,) = blocks(language)
    named = set(re.findall(r'"([a-z]+_[a-z_]+)"', client))
    assert {"event_id", "event_type", "user_id", "ping_id", "creator_id", "request_id", "sent_at"} <= named
    assert named <= known_names()
    assert set(re.findall(r'"(timestamp|position)"', client)) == {"timestamp", "position"}
    assert {kind for kind in CLIENT_TYPES if f'"{kind}"' in client} == BY_CREATOR
    assert all(f"/{path}" in client or f'"{path}"' in client for path in ("track-events", "get-feed"))


def test_the_swift_structs_match_the_responses() -> None:
    (client,) = blocks("swift")
    for struct, answer in (("Item", Item), ("Page", Feed), ("Answer", Result)):
        (line,) = re.findall(rf"^struct {struct}: Decodable {{(.*)}}$", client, flags=re.MULTILINE)
        own = re.sub(r"struct Rejected.*?}", "", line)
        told = {as_snake(name) for names in re.findall(r"(?:let|var) ([\w, ]+):", own) for name in names.split(", ")}
        assert told
        assert told <= set(answer.__struct_fields__) | ({"request_id"} if struct == "Item" else set())
