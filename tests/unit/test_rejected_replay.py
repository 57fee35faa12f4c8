"""What was refused can be seen, repaired and sent again: once, and nothing that is not stored leaves the lake."""

import io
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batch.accounting import replay as replaying
from batch.accounting.door import TRIES, EventReceiver, Receipt
from batch.accounting.refused import id_of, refused, remove
from batch.accounting.repaired import Skipped, of_lake, uuid8
from batch.accounting.replay import replay
from ingest_api.permit import forbidden
from ingest_api.rejected import RejectedLog, line_of
from pingfeed import cli
from pingfeed.adapters.lake_file import FileLake
from pingfeed.core.clock import DAY_MS, to_iso
from pingfeed.core.errors import InvalidInput, PingfeedError, Unavailable
from pingfeed.core.events import EventId, Refusal, encode_rows, to_rows
from pingfeed.core.ids import uuid7
from pingfeed.local import appended
from pingfeed.web.auth import Caller
from tests.unit.lakes import FIRST_DAY, event_id, row

NOW = FIRST_DAY * DAY_MS + DAY_MS // 2
TODAY, YESTERDAY = "2024-10-04", "2024-10-03"
GOOD = {"event_type": "view", "user_id": "ada", "ping_id": "p1", "watch_time_ratio": 0.5}
BAD = {**GOOD, "watch_time_ratio": -1}


class Ingest:
    """A service that answers as the real one does, by the same rules; a test says what else it answers."""

    def __init__(self) -> None:
        self.rows: dict[tuple[Any, str], dict[str, Any]] = {}
        self.requests: list[int] = []
        self.keys: list[str] = []
        self.instead: list[tuple[int, dict[str, str], bytes]] = []
        self.url = ""

    def answer(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        events = json.loads(body)["events"]
        self.requests.append(len(events))
        if self.instead:
            return self.instead.pop(0)
        rows, refusals = to_rows(events, NOW, uuid7)
        fresh = {(one.get("user_id"), one["event_id"]): one for one in reversed(rows)}
        new = {key: one for key, one in fresh.items() if key not in self.rows}
        self.rows |= new
        rejected = [{"index": r.index, "code": r.code, "field": r.field, "message": r.message} for r in refusals]
        receipt = {"accepted": len(new), "duplicates": len(rows) - len(new), "rejected": rejected}
        return (202 if rows else 422), {}, json.dumps(receipt).encode()


@pytest.fixture
def ingest() -> Iterator[Ingest]:
    found = Ingest()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/track-events"
            found.keys.append(self.headers.get("Authorization", ""))
            status, headers, body = found.answer(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=lambda: server.serve_forever(0.01), daemon=True).start()
        found.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield found
        server.shutdown()


class Place:
    """A lake with refused events, and the command over it."""

    def __init__(self, home: Path, ingest: Ingest, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self.ingest, self._capsys = home, ingest, capsys
        self.lake = FileLake(f"file://{home}/lake")

    def refuse(self, *events: Any, day_ms: int = NOW, name: str = "one", code: str | None = None) -> None:
        """Keep events as the service does, with the reason for which it would refuse them."""
        _, refusals = to_rows(events, day_ms, uuid7)
        assert len(refusals) == len(events)
        self.keep([line_of(one, day_ms) for one in refusals], TODAY if day_ms == NOW else YESTERDAY, name)

    def keep(self, lines: list[bytes], day: str = TODAY, name: str = "one") -> None:
        path = f"rejected/day={day}/{name}.jsonl"
        before = self.lake.read(path) if path in self.lake.list("rejected") else b""
        self.lake.write(path, before + b"".join(lines))

    def kept(self) -> list[Any]:
        """The bodies that still lie there."""
        return [json.loads(one.body) for one in refused(self.lake)]

    def run(self, *words: str) -> tuple[int, str, str]:
        to = ("--to", self.ingest.url) if words[0] == "replay" else ()
        code = cli.main(["rejected", *words, *to])
        out, err = self._capsys.readouterr()
        return code, out, err

    def listed(self, *words: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run("list", "--json", *words)[1].splitlines()]

    def replayed(self, *words: str) -> tuple[int, dict[str, Any]]:
        code, out, _ = self.run("replay", "--json", *words)
        return code, json.loads(out)


@pytest.fixture
def place(tmp_path: Path, ingest: Ingest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Place:
    monkeypatch.setenv("PINGFEED_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "250")
    return Place(tmp_path, ingest, capsys)


def counts(answer: dict[str, Any]) -> tuple[int, ...]:
    return tuple(answer[name] for name in ("accepted", "duplicates", "refused", "skipped", "removed"))


def test_list_shows_what_was_refused_by_day_and_reason_with_an_example(place: Place) -> None:
    place.refuse(BAD, {**BAD, "watch_time_ratio": 11}, {"event_type": "wink"})
    place.refuse({**GOOD, "ping_id": None}, day_ms=NOW - DAY_MS)
    code, text, _ = place.run("list")
    assert code == 0
    assert [len(line.split("│")) for line in text.splitlines() if "2024-10-0" in line] == [7, 7, 7]
    assert "watch_time_ratio must be a number >= 0.0" in text
    assert '{"event_type":"view","user_id":"ada","ping_id":"p1","watch_time_rati' not in text, "an example is cut"
    assert "4 refused events are kept" in text
    assert "Nothing that was refused is kept" in place.run("list", "--code", "no_such")[1]


def test_list_gives_a_machine_every_one_whole(place: Place) -> None:
    place.refuse(BAD, {"event_type": "wink"})
    place.refuse(BAD, day_ms=NOW - DAY_MS)
    place.keep([b'{"received_ms":17'], YESTERDAY, "killed")
    place.keep([line_of(Refusal(0, None, "malformed", None, "no JSON", b'{"a":\n\xff'), NOW)])
    found = place.listed()
    assert [(one["path"], one["code"]) for one in found] == [
        (f"rejected/day={YESTERDAY}/one.jsonl", "out_of_range"),
        (f"rejected/day={TODAY}/one.jsonl", "out_of_range"),
        (f"rejected/day={TODAY}/one.jsonl", "unknown_event_type"),
        (f"rejected/day={TODAY}/one.jsonl", "malformed"),
    ]
    assert [one["body"] for one in found] == [BAD, BAD, {"event_type": "wink"}, '{"a":\n\\xff']
    assert found[0].keys() == {"id", "path", "received_ms", "code", "field", "message", "body"}
    assert [one["code"] for one in place.listed("--code", "malformed")] == ["malformed"]
    assert [one["received_ms"] for one in place.listed("--day", YESTERDAY)] == [NOW - DAY_MS]


def test_what_a_person_repaired_is_stored_once_with_its_own_time_and_leaves_the_lake(
    place: Place, tmp_path: Path
) -> None:
    place.refuse(BAD, {"event_type": "wink"})
    (line,) = place.listed("--code", "out_of_range")
    file = tmp_path / "repaired.jsonl"
    file.write_bytes(msgspec.json.encode({**line, "body": GOOD}))
    assert place.replayed(str(file)) == (0, {**EMPTY, "accepted": 1})
    (stored,) = place.ingest.rows.values()
    assert (stored["watch_time_ratio"], stored["timestamp_ms"]) == (0.5, NOW)
    code, answer = place.replayed(str(file), "--remove")
    assert (code, counts(answer)) == (0, (0, 1, 0, 0, 1)), "replayed twice, stored once"
    assert place.kept() == [{"event_type": "wink"}]
    assert counts(place.replayed(str(file), "--remove")[1]) == (0, 1, 0, 0, 0)


EMPTY = {"accepted": 0, "duplicates": 0, "refused": 0, "skipped": 0, "removed": 0, "kept": 0, "rejected": []}


def test_what_would_be_refused_again_is_not_sent_and_stays(place: Place) -> None:
    old = {**GOOD, "event_id": event_id("old")}
    place.refuse(BAD, {"event_type": "wink"})
    place.keep([line_of(Refusal(0, None, "timestamp_ahead", "timestamp", "ahead", msgspec.json.encode(old)), NOW)])
    code, answer = place.replayed("--remove")
    assert (code, counts(answer)) == (1, (1, 0, 2, 0, 1))
    assert [(one["code"], one["field"]) for one in answer["rejected"]] == [
        ("out_of_range", "watch_time_ratio"),
        ("unknown_event_type", "event_type"),
    ]
    assert place.ingest.requests == [1]
    assert place.kept() == [BAD, {"event_type": "wink"}]


def test_what_the_service_refuses_for_reasons_of_its_own_stays(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "to_rows", lambda *_: ([], []))
    place.refuse(BAD)
    place.keep([line_of(Refusal(0, None, "x", None, "x", msgspec.json.encode(GOOD)), NOW)])
    code, answer = place.replayed("--remove")
    assert (code, counts(answer)) == (1, (1, 0, 1, 0, 1))
    assert place.kept() == [BAD]
    assert counts(place.replayed("--remove")[1]) == (0, 0, 1, 0, 0), "a 422 that has the reasons is an answer"


def test_day_and_code_choose_what_is_replayed(place: Place, tmp_path: Path) -> None:
    for code, day_ms, day in (("a", NOW, TODAY), ("b", NOW, TODAY), ("b", NOW - DAY_MS, YESTERDAY)):
        body = msgspec.json.encode({**GOOD, "event_id": event_id(code, day)})
        place.keep([line_of(Refusal(0, None, code, None, "m", body), day_ms)], day)
    everything = place.run("list", "--json")[1]
    assert place.replayed("--code", "b", "--day", YESTERDAY)[1]["accepted"] == 1
    assert place.replayed("--code", "b")[1]["duplicates"] == 1
    (tmp_path / "f").write_text(everything)
    assert place.replayed(str(tmp_path / "f"), "--code", "a", "--day", TODAY)[1]["accepted"] == 1
    assert len(place.ingest.rows) == 3


def test_requests_hold_no_more_than_the_door_takes(place: Place) -> None:
    small = [line_of(Refusal(0, None, "x", None, "", msgspec.json.encode({**GOOD, "n": n})), NOW) for n in range(501)]
    large = {**GOOD, "extra_text": "x" * 600_000}
    small += [line_of(Refusal(0, None, "x", None, "", msgspec.json.encode({**large, "n": n})), NOW) for n in range(2)]
    too_large = {**GOOD, "extra_text": "x" * (1 << 20)}
    place.keep([*small, line_of(Refusal(0, None, "x", None, "", msgspec.json.encode(too_large)), NOW)])
    code, answer = place.replayed("--remove")
    assert (code, counts(answer)) == (1, (503, 0, 1, 0, 503))
    assert answer["rejected"][0]["code"] == "too_large"
    assert place.ingest.requests == [500, 2, 1]


def test_standard_input_takes_lines_events_and_whole_requests(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        json.dumps(GOOD),
        json.dumps({"body": json.dumps(GOOD)}),
        json.dumps({"body": {"events": [GOOD, {**GOOD, "user_id": "bob"}]}}),
        "",
        '{"body": "still no JSON"}',
        "nor is this",
    ]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines).encode())))
    code, answer = place.replayed("-", "--remove")
    assert (code, counts(answer)) == (0, (4, 0, 0, 2, 0))


def test_what_was_forbidden_is_sent_only_from_a_file_and_if_the_operator_says_so(place: Place, tmp_path: Path) -> None:
    others = {"event_type": "block", "user_id": "ada", "creator_id": "c1"}
    place.keep([line_of(one, NOW) for one in forbidden(Caller("eve", False), [others]).values()])
    assert counts(place.replayed()[1]) == (0, 0, 0, 1, 0)
    assert counts(place.replayed("--code", "forbidden", "--remove")[1]) == (0, 0, 0, 1, 0)
    (tmp_path / "f").write_text(place.run("list", "--json")[1])
    assert counts(place.replayed(str(tmp_path / "f"))[1]) == (0, 0, 0, 1, 0)
    assert "1 lines skipped: their senders were not allowed" in place.run("replay", str(tmp_path / "f"))[1]
    assert place.ingest.requests == []
    assert place.kept() == [others]
    assert place.replayed(str(tmp_path / "f"), "--code", "forbidden")[1]["accepted"] == 1


def test_equal_events_of_one_request_are_two_events_and_replayed_twice_are_stored_once_each(
    place: Place, tmp_path: Path
) -> None:
    line = line_of(Refusal(0, None, "x", None, "", msgspec.json.encode(GOOD)), NOW)
    place.keep([line, line])
    (tmp_path / "f").write_text(place.run("list", "--json")[1])
    assert counts(place.replayed()[1]) == (2, 0, 0, 0, 0)
    assert counts(place.replayed(str(tmp_path / "f"), "--remove")[1]) == (0, 2, 0, 0, 2)
    assert len(place.ingest.rows) == 2


def test_a_row_that_the_sink_had_is_an_event_again(place: Place) -> None:
    """As the batch side keeps what it refuses of the raw zone."""
    odd = row("like", NOW, event_id=event_id(1), user_id="ada", ping_id="p1", sent_ms=NOW - 5, extra='{"ab_test":"x"}')
    line = {"received_ms": NOW, "code": "format", "field": "position", "message": "m", "source": "events/x"}
    place.keep([msgspec.json.encode({**line, "body": encode_rows([odd]).decode()}) + b"\n"], name="raw-abc")
    answer = place.replayed("--remove")[1]
    assert (answer["accepted"], answer["removed"], answer["kept"]) == (1, 0, 1)
    assert "0 lines removed from the lake, 1 kept: they show" in place.run("replay", "--remove")[1]
    (stored,) = place.ingest.rows.values()
    del odd["sent_ms"]
    assert stored == odd, "its time stamp was corrected when it came first"


def test_a_clients_clock_is_corrected_as_of_the_first_arrival(place: Place) -> None:
    hour = 3_600_000
    sent = {**GOOD, "timestamp": to_iso(NOW - 2 * hour - 5), "sent_at": to_iso(NOW - 2 * hour)}
    place.keep([line_of(Refusal(0, None, "x", None, "", msgspec.json.encode(sent)), NOW - hour)])
    assert place.replayed()[1]["accepted"] == 1
    (stored,) = place.ingest.rows.values()
    assert stored["timestamp_ms"] == NOW - hour - 5


def test_lines_of_an_import_are_listed_and_not_sent(place: Place) -> None:
    place.keep([line_of(Refusal(0, None, "x", None, "", msgspec.json.encode(GOOD)), NOW)], name="import-log")
    assert len(place.listed()) == 1
    assert place.replayed("--remove") == (0, EMPTY)


def test_a_key_is_sent_and_is_no_setting(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place.keep([line_of(Refusal(0, None, "x", None, "", msgspec.json.encode(GOOD)), NOW)])
    place.run("replay")
    monkeypatch.setenv("PINGFEED_API_KEY", "from-the-environment")
    assert place.run("replay")[0] == 0
    (tmp_path / "key").write_text("from-a-file\n")
    place.run("replay", "--key-file", str(tmp_path / "key"))
    assert place.ingest.keys == ["", "Bearer from-the-environment", "Bearer from-a-file"]


def test_a_service_that_is_away_for_a_moment_is_asked_again_when_it_says(ingest: Ingest) -> None:
    pauses: list[float] = []
    ingest.instead = [(503, {"Retry-After": "7"}, b"{}"), (429, {}, b"")]
    assert EventReceiver(ingest.url, pause=pauses.append).send([{**GOOD, "event_id": event_id(1)}]).accepted == 1
    assert pauses == [7, 2]


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (401, b'{"error":{"message":"no key"}}', "answered 401: no key"),
        (422, b'{"error":{"message":"events is empty"}}', "answered 422: events is empty"),
        (404, b"<html>", "answered 404: no reason given"),
        (200, b"hello", "does not answer as the ingest service does"),
    ],
)
def test_an_answer_that_no_second_try_changes_is_one_sentence(
    ingest: Ingest, status: int, body: bytes, says: str
) -> None:
    ingest.instead = [(status, {}, body)]
    with pytest.raises(PingfeedError, match=says):
        EventReceiver(ingest.url).send([GOOD])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_refused_for_the_key_would_follow_it(ingest: Ingest, status: int) -> None:
    ingest.instead = [(status, {"Location": f"{ingest.url}/track-events"}, b"")]
    with pytest.raises(PingfeedError, match=f"answered {status}, a redirect"):
        EventReceiver(ingest.url, "secret").send([GOOD])
    assert ingest.requests == [1]


def test_a_service_that_stays_away_is_unavailable() -> None:
    pauses: list[float] = []
    with pytest.raises(Unavailable, match="does not answer"):
        EventReceiver("http://127.0.0.1:1", pause=pauses.append).send([GOOD])
    assert len(pauses) == TRIES - 1
    with pytest.raises(InvalidInput):
        EventReceiver("127.0.0.1:8000")


def test_what_ends_it_early_is_said_after_what_was_done_and_nothing_unsent_leaves_the_lake(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = [msgspec.json.encode({**GOOD, "n": n}) for n in range(501)]
    place.keep([line_of(Refusal(0, None, "x", None, "", body), NOW) for body in bodies])
    monkeypatch.setattr(place.ingest, "answer", _then_forbidden(place.ingest.answer))
    code, out, err = place.run("replay", "--remove", "--json")
    assert code == 1
    assert counts(json.loads(out)) == (500, 0, 0, 0, 500)
    assert err.startswith("pingfeed rejected: ")
    assert "answered 403" in err
    assert [body["n"] for body in place.kept()] == [500]


def _then_forbidden(answer: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    answers = iter([answer])

    def once(body: bytes) -> Any:
        first = next(answers, None)
        return first(body) if first else (403, {}, b"{}")

    return once


def test_a_request_that_was_cut_between_two_sends_leaves_only_when_all_of_it_is_taken(tmp_path: Path) -> None:
    lake = FileLake(f"file://{tmp_path}")
    whole = msgspec.json.encode({"events": [{**GOOD, "n": n} for n in range(501)]})
    lake.write(f"rejected/day={TODAY}/x.jsonl", line_of(Refusal(0, None, "x", None, "", whole), NOW))

    class Stops:
        def send(self, events: list[Any]) -> Any:
            if len(events) < 500:
                raise Unavailable("gone")
            return msgspec.convert({"accepted": 500, "duplicates": 0, "rejected": []}, Receipt)

    done = replay(Stops(), of_lake(refused(lake), Skipped()), NOW)
    assert done.accepted == 500
    assert not any(done.taken.values())


def test_replay_tells_a_person(place: Place) -> None:
    place.refuse(*({**BAD, "n": n} for n in range(8)))
    place.keep([line_of(Refusal(0, None, "malformed", None, "", b"no"), NOW)])
    code, text, _ = place.run("replay", "--remove")
    assert code == 1
    assert text.startswith("0 accepted, 0 accepted before, 8 refused again, 1 lines skipped")
    assert "out_of_range: watch_time_ratio must be a number >= 0.0" in text
    assert text.endswith("and 2 more\n")


@pytest.mark.parametrize(
    "path",
    ["../secrets.jsonl", "models/x.jsonl", f"rejected/day={TODAY}/../../../x.jsonl", f"rejected/day={TODAY}/no.jsonl"],
)
def test_only_files_of_refused_events_lose_lines(place: Place, path: str) -> None:
    (place.home / "secrets.jsonl").write_text("s")
    place.lake.write("models/x.jsonl", b"s")
    assert remove(place.lake, place.lake.root, {path: {id_of(b"s")}}) == 0
    assert (place.home / "secrets.jsonl").exists()
    assert place.lake.read("models/x.jsonl") == b"s"


def test_a_file_of_which_nothing_is_left_goes(place: Place) -> None:
    place.refuse(BAD)
    (one,) = refused(place.lake)
    assert remove(place.lake, place.lake.root, {one.path: {one.id}}) == 1
    assert place.lake.list("rejected") == []
    place.refuse(BAD)
    assert remove(place.lake, None, {one.path: {one.id}}) == 1, "as on S3"
    assert place.lake.list("rejected") == []


async def test_lines_that_the_service_adds_while_others_are_taken_out_are_kept(tmp_path: Path) -> None:
    log = RejectedLog(tmp_path / "rejected", writer="one")
    lake = FileLake(f"file://{tmp_path}")
    lines = 300

    def take_out() -> None:
        while not done.is_set():
            for one in refused(lake):
                if one.code == "gone":
                    remove(lake, tmp_path, {one.path: {one.id}})

    done = threading.Event()
    remover = threading.Thread(target=take_out)
    remover.start()
    for number in range(lines):
        body = b'{"n":%d}' % number
        await log.add([Refusal(0, None, "kept", None, "", body), Refusal(0, None, "gone", None, "", body)], NOW)
    await log.close()
    done.set()
    remover.join()
    kept = [json.loads(one.body)["n"] for one in refused(lake, code="kept")]
    assert kept == list(range(lines))


def test_a_rewrite_of_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        appended.rewrite(tmp_path / "absent", lambda data: data)


def test_an_id_is_a_uuid_that_its_name_determines() -> None:
    assert uuid8("a/0") == uuid8("a/0") != uuid8("a/1")
    assert uuid8("a/0")[14] == "8"
    assert uuid8("a/0")[19] in "89ab"
    assert msgspec.convert(uuid8("a/0"), EventId) == uuid8("a/0")
