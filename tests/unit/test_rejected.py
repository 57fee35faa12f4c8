"""Rejected events can be listed, and printed as requests that store each of them once."""

import json
import re
import uuid
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingest_api.rejected import line_of
from pingfeed import cli
from pingfeed.adapters.lake_file import FileLake
from pingfeed.core.clock import DAY_MS, day_of, system_clock, to_iso
from pingfeed.core.errors import Forbidden
from pingfeed.core.events import MAX_BODY_BYTES, EventId, RejectedEvent, to_rows
from pingfeed.core.ids import uuid7

NOW = system_clock() // DAY_MS * DAY_MS
TODAY, YESTERDAY = day_of(NOW), day_of(NOW - DAY_MS)
GOOD = {"event_type": "view", "user_id": "ada", "ping_id": "p1", "watch_time_ratio": 0.5}
BAD = {**GOOD, "watch_time_ratio": -1}


def line(event: Any, code: str = "x", at_ms: int = NOW) -> bytes:
    body = event if isinstance(event, bytes) else msgspec.json.encode(event)
    return line_of(RejectedEvent(0, None, code, None, "message", body), at_ms)


class Place:
    """A lake with rejected events, and the command over it."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.lake = FileLake(f"file://{home}/lake")

    def keep(self, *lines: bytes, day: str = TODAY, name: str = "one") -> None:
        self.lake.write(f"rejected/day={day}/{name}.jsonl", b"".join(lines))

    def run(self, *words: str) -> tuple[str, str]:
        assert cli.main(["rejected", "list", *words]) == 0
        return self._capsys.readouterr()

    def events(self, *words: str) -> list[dict[str, Any]]:
        bodies = self.run("--json", *words)[0].splitlines()
        return [event for body in bodies for event in json.loads(body)["events"]]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Place:
    monkeypatch.setenv("PINGFEED_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "250")
    return Place(tmp_path, capsys)


def test_list_counts_by_day_and_reason_with_an_example(place: Place) -> None:
    _, refusals = to_rows([BAD, {**BAD, "watch_time_ratio": -11}, {"event_type": "wink"}], NOW, uuid7)
    place.keep(*(line_of(one, NOW) for one in refusals), b'{"received_ms":17')
    place.keep(line(GOOD, "old", NOW - DAY_MS), day=YESTERDAY, name="raw-1")
    text, _ = place.run()
    assert "Rejected events: 4" in text
    assert [re.split("  +", line)[2] for line in text.splitlines() if "202" in line] == ["1", "2", "1"]
    assert "watch_time_ratio must be a number >= 0.0" in text
    assert '{"event_type":"view","user_id":"ada","ping_id":"p1","watch_time_rati' not in text, "an example is cut"
    assert "Rejected events: 2" in place.run("--code", "out_of_range")[0]
    assert "Rejected events: 1" in place.run("--day", YESTERDAY)[0]
    assert "Rejected events: 4" in place.run("--day", TODAY, "--days", "2")[0]


def test_json_prints_events_with_an_id_of_their_own_and_the_time_of_arrival(place: Place) -> None:
    own = {**GOOD, "event_id": str(uuid.uuid4()), "timestamp": to_iso(NOW - 5)}
    place.keep(line(GOOD), line(GOOD), line({**own, "sent_at": to_iso(NOW)}))
    first, second, third = events = place.events()
    assert {**first, "event_id": ""} == {**GOOD, "event_id": "", "timestamp": to_iso(NOW)}
    assert third == own, "sent_at would be compared with the time of sending again"
    assert first["event_id"] != second["event_id"], "equal events of one request are two events"
    assert all(msgspec.convert(event["event_id"], EventId) for event in events)
    assert uuid.UUID(first["event_id"]).version == 5
    assert place.events() == events, "sent twice, stored once"
    rows, refusals = to_rows(events, NOW, uuid7)
    assert (len(rows), refusals) == (3, [])


def test_day_and_code_choose_what_is_printed(place: Place) -> None:
    place.keep(line({**GOOD, "n": 1}, "a"), line({**GOOD, "n": 2}, "b"))
    place.keep(line({**GOOD, "n": 3}, "b", NOW - DAY_MS), day=YESTERDAY)
    assert [event["n"] for event in place.events()] == [3, 1, 2]
    assert [event["n"] for event in place.events("--code", "b")] == [3, 2]
    assert [event["n"] for event in place.events("--code", "b", "--day", TODAY)] == [2]


def test_a_request_that_was_rejected_whole_is_its_events(place: Place) -> None:
    place.keep(line({"events": [GOOD, {**GOOD, "user_id": "bob"}]}))
    first, second = place.events()
    assert (first["user_id"], second["user_id"]) == ("ada", "bob")
    assert first["event_id"] != second["event_id"]


def test_bodies_are_within_the_limits_of_the_endpoint(place: Place) -> None:
    large = {**GOOD, "text": "x" * 600_000}
    too_large = {**GOOD, "t": "x" * 2**20}
    place.keep(*map(line, [*({**GOOD, "n": n} for n in range(501)), large, large, too_large]))
    text, said = place.run("--json")
    bodies = text.splitlines()
    assert [len(json.loads(body)["events"]) for body in bodies] == [500, 2, 1]
    assert all(len(body) <= MAX_BODY_BYTES for body in bodies)
    assert said == "skipped, too large: 1\n"


def test_what_a_caller_was_forbidden_to_send_is_printed_only_on_request(place: Place) -> None:
    others = {"event_type": "block", "user_id": "ada", "creator_id": "c1"}
    place.keep(line(others, Forbidden.code), line(GOOD))
    assert [event["event_type"] for event in place.events()] == ["view"]
    assert place.run("--json")[1] == "skipped, forbidden: 1\n"
    assert [event["event_type"] for event in place.events("--code", "forbidden")] == ["block"]


def test_what_cannot_be_an_event_is_skipped_and_counted(place: Place) -> None:
    place.keep(line(b'{"a":\n\xff'), line(b"3"), line(b"[" * 100_000), line(GOOD))
    assert len(place.events()) == 1
    assert place.run("--json")[1] == "skipped, malformed: 3\n"


@pytest.mark.parametrize("name", ["raw-abc", "import-log"])
def test_accepted_rows_and_lines_of_an_import_are_never_sent_again(place: Place, name: str) -> None:
    place.keep(line(GOOD), name=name)
    assert place.run("--json") == ("", "")
    assert "Rejected events: 1" in place.run()[0]
