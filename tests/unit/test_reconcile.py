"""Accepted, delivered and landed agree to the event, whatever was killed, sent twice, compacted or removed."""

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch.lake.ledger import is_compacted
from batch.lake.raw_files import each_events
from batch.lake.tables import parquet_of
from batch.ops import reconcile as reconciling
from batch.ops.forget import forget_users
from batch.ops.reconcile import Counts, Report, days_until, keys_of, reconcile, sentences
from pingfeed import cli
from pingfeed.adapters._firehose import pieces
from pingfeed.core.arrow import table_of_rows
from pingfeed.core.clock import DAY_MS, day_of, system_clock
from pingfeed.core.errors import FormatError, NotFound
from pingfeed.core.events import Row, encode_rows
from pingfeed.spool import stats
from pingfeed.spool.checkpoint import FILE, Delivered, Tally
from pingfeed.spool.stats import SpoolStats
from tests.unit.forget_world import places_of
from tests.unit.lakes import DAY, FIRST, FIRST_DAY, LakeWorld, error_line, event_id, row

NOON = FIRST_DAY * DAY_MS + DAY_MS // 2
TODAY, TOMORROW = day_of(NOON), day_of(NOON + DAY_MS)
PARTITION = "events/year=2024/month=10/day=04"
NEXT_PARTITION = "events/year=2024/month=10/day=05"
ERRORS = "errors/format-conversion-failed/year=2024/month=10/day=04/x"


def like(number: int, received_ms: int = NOON, **values: Any) -> Row:
    return row("like", received_ms, event_id=event_id(number), user_id="ada", ping_id="p1", **values)


class Town(LakeWorld):
    """A lake with accounts; a test says what spools have delivered and what waits in them."""

    waiting: dict[str, dict[str, int]]

    @property
    def lake(self) -> Any:
        return self.batch.tables.lake

    @property
    def spool_dir(self) -> Path:
        return self.batch.settings.spool_dir

    def deliver(self, count: int, spool: str = "a" * 16, day: str = TODAY, at_ms: int = NOON + 1000) -> None:
        """The tally of a spool on this machine."""
        path = self.spool_dir / spool[:4] / FILE
        tally = Tally.of(path.read_bytes()) if path.exists() else Tally(spool_id=spool, service="ingest")
        tally.acked(tally.acked_to + 1, {day: count}, at_ms).write(path)

    def publish(self, spool: str, delivered: int, spooled: int) -> None:
        """What a spool of another machine published long ago."""
        days = {TODAY: Delivered(delivered, NOON)} if delivered else {}
        stats = SpoolStats(spool_id=spool * 16, service="feed", days=days, spooled={TODAY: spooled}, published_ms=0)
        self.lake.write(f"accounts/{stats.spool_id}.json", stats.encode())

    def reconcile(self, days: Iterable[str] = (TODAY,), now_ms: int = NOON + 2000) -> Report:
        self.batch.tables.refresh()
        return reconcile(self.lake, self.spool_dir, list(days), now_ms, raw_days=self.batch.settings.raw_days)

    def said(self, now_ms: int = NOON + 2000, *, firehose: bool = False) -> str:
        return "\n".join(sentences(self.reconcile(now_ms=now_ms), now_ms, firehose=firehose))

    def counts(self, day: str = TODAY) -> Counts:
        return self.reconcile([day]).days[0].counts


@pytest.fixture
def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Town:
    found = Town(tmp_path)
    found.waiting = {}
    monkeypatch.setattr(stats, "waiting_by_day", lambda _folder: found.waiting)
    return found


def expected(delivered: int, *, spooled: int = 0, duplicates: int = 0, missing: int = 0, **more: Any) -> Counts:
    counted: dict[str, Any] = {
        "day": TODAY,
        "accepted": delivered + spooled,
        "spooled": spooled,
        "delivered": delivered,
        "landed": delivered - missing,
        "duplicates": duplicates,
        "missing": missing,
        "short": [PARTITION] if missing else [],
    }
    return Counts(**{**counted, **more})


def other_writer() -> bytes:
    """A Parquet file with a dictionary column and few of our columns."""
    table = pa.table({"event_id": pa.array(["i"]).dictionary_encode(), "event_type": ["like"], "user_id": ["u"]})
    return parquet_of(table.append_column("received_ms", pa.array([NOON])).append_column("timestamp_ms", [[NOON]]))


Files = dict[str, list[Row] | bytes]


def case(name: str, files: Files | list[list[Row]], delivered: int, says: str = "", **more: Any) -> Any:
    """`files` by name (without a folder: in today's partition) and how many events of today spools have delivered.

    Of `more`, `days`, `at_ms` and `published` say what else spools report; the rest is what must be counted.
    """
    named = files if isinstance(files, dict) else {f"part-{number}": rows for number, rows in enumerate(files)}
    reports = {key: more.pop(key) for key in ("days", "at_ms", "published", "waiting") if key in more}
    given = {"days": {TODAY: delivered}, "at_ms": NOON + 1000, "published": [], "waiting": {}} | reports
    counts = expected(more.pop("sum", delivered), **more)
    gone = "1 delivered event is" if counts.missing == 1 else f"{counts.missing} delivered events are"
    missing = f"{gone} missing from {PARTITION}: restore its files."
    return pytest.param(named, given, counts, says or (missing if counts.missing else "nothing is missing."), id=name)


A, B, C = like(1), like(2), like(3)
TOMORROWS = like(2, NOON + DAY_MS)
CREATED = row("ping_created", NOON, ping_id="p1", creator_id="c")
NAMELESS = [{name: value for name, value in like(n, position=n).items() if name != "event_id"} for n in (1, 2)]
ODD = encode_rows([{**B, "position": "third"}])
NOT_CONVERTED = error_line(encode_rows([A]) + ODD) + error_line(ODD) + error_line(b'{"not":"ours"}')
HUGE = pieces(encode_rows([A | {"extra": json.dumps({"event_id": "other", "received_ms": 5, "x": '"{' * 600_000})}]))
assert len(HUGE) > 2
FILED_ELSEWHERE: Files = {
    f"{NEXT_PARTITION}/stream": encode_rows([A, TOMORROWS]),
    "events/year=2024/month=10/day=07/stream": encode_rows([C]),
    "events/year=2024/month=10/day=03/stream": encode_rows([like(4, FIRST_DAY * DAY_MS)]),
}
UNREADABLE = f"1 delivered event is missing from {PARTITION}: restore its files.\nUnreadable files: 1. Their events"
NO_STATS = "no spool has stats for this day (kept for 400 days); events in the lake: 1."
SURPLUS = "nothing is missing. 1 more landed than spools report"
WAITING = {TODAY: 4, TOMORROW: 9}
CASES = [
    case("delivered has landed and the rest waits", [[A, B], [CREATED]], 3, waiting=WAITING, spooled=4),
    case("delivered again after a kill has landed once", [[A, B], [A, B, C]], 3, duplicates=2),
    case("sent again by a client is two acceptances", [[A, like(1, NOON + 60_000)]], 2, duplicates=1),
    case("a deleted file is missing and its partition is named", [[C]], 3, missing=2),
    case("a duplicate makes up for no missing event", [[A, A]], 2, missing=1, duplicates=1),
    case("history was never accepted", {"history-1.parquet": [A], "part": [B]}, 2, missing=1),
    case("a spool counts its day of arrival only", [[A, TOMORROWS]], 1, days={TODAY: 1, TOMORROW: 1}),
    case("Firehose files by its own clock", FILED_ELSEWHERE, 3, at_ms=NOON + 2 * DAY_MS),
    case("the name of a file says nothing", {"x.gz": encode_rows([A])}, 1),
    case("what was not converted has landed each once", {ERRORS: NOT_CONVERTED}, 2, duplicates=1),
    case("a row in several records has landed once", {ERRORS: b"".join(map(error_line, HUGE))}, 1),
    case("bytes tell rows without ids apart", {"x": encode_rows([*NAMELESS, NAMELESS[0]])}, 2, duplicates=1),
    case("columns of another writer can be counted", {"other": other_writer()}, 1),
    case("an unreadable file is named", {"good": [A], "torn": b"PAR1 torn"}, 2, UNREADABLE, missing=1),
    case("other machines count by what they publish", [[A, B, C]], 1, published=["b", 2, 7], sum=3, spooled=7),
    case("a spool seen here is fresher than what it published", [[A]], 1, published=["a", 0, 1]),
    case("a day without spool stats", [[A]], 0, NO_STATS, days={}, landed=1),
    case("more than was delivered", [[A, B]], 0, SURPLUS, days={}, published=["b", 1, 7], sum=1, spooled=7, landed=2),
]


@pytest.mark.parametrize(("files", "spools", "counts", "sentence"), CASES)
def test_what_is_in_the_stores_is_what_reconcile_prints(
    town: Town, files: Files, spools: dict[str, Any], counts: Counts, sentence: str
) -> None:
    for name, content in files.items():
        path = name if "/" in name else f"{PARTITION}/{name}"
        town.lake.write(path, content if isinstance(content, bytes) else parquet_of(table_of_rows(content)))
    for day, count in spools["days"].items():
        town.deliver(count, day=day, at_ms=spools["at_ms"])
    if spools["published"]:
        town.publish(*spools["published"])
    town.waiting = {"a" * 16: spools["waiting"]}
    assert town.counts() == counts
    assert town.said().startswith(f"{TODAY}: {sentence}")


@pytest.mark.parametrize(
    ("document", "key"),
    [
        ('{"user_id":"u","event_id":"e","received_ms":5,"position":"x"}', ("u", "e", 5)),
        ('{"user_id":"u","event_id":"e","received_ms":5,"extra":"{\\"user_id\\":\\"v', ("u", "e", 5)),
        ('{"event_id":"e","received_ms":5', (None, "e", 5)),
        ('t","event_id', None),
        ('{"event_id":"e","received_ms":"5"}', None),
        ('{"event_id":"e","received_ms":true}', None),
        ("[1]", None),
        ("[" * 100_000, None),
        ('{"user_id":3,"event_id":4,"received_ms":5}', (None, '{"user_id":3,"event_id":4,"received_ms":5}', 5)),
    ],
)
def test_a_document_that_is_no_row_may_still_say_whose_it_is(document: str, key: object) -> None:
    found = [tuple(row.values()) for row in keys_of([document]).to_pylist()]
    assert found == ([] if key is None else [key])


def test_compaction_changes_no_count(town: Town) -> None:
    town.land([row("ping_created", NOON, ping_id="p1", creator_id="c"), like(1)])
    town.land([like(2)])
    town.lake.write(f"{PARTITION}/json", encode_rows([like(3), {**like(4), "position": "third"}]) + b'{"bad":1}\n')
    town.deliver(5)
    before = town.counts()
    town.night(FIRST + 2 * DAY)
    assert all(is_compacted(path) for path in town.lake.list(PARTITION))
    assert town.counts() == before == expected(5)


def test_what_was_removed_for_a_deleted_user_while_the_lake_is_read_is_not_missing(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    town.land([like(1), like(2)])
    town.deliver(3)
    town.night(FIRST + 60)
    forget_users(town.batch, ["ada"])

    def each(lake: Any, paths: Any) -> Any:
        yield from each_events(lake, paths)
        town.night(FIRST + DAY + 12)
        town.batch.tables.refresh()

    monkeypatch.setattr(reconciling, "each_events", each)
    assert town.counts() == expected(3, missing=1)
    found = town.reconcile().days[0]
    assert (found.removed, found.counts) == (2, expected(3, landed=0, missing=1))
    assert not [place for place in places_of(town, "ada") if "forgotten/" not in place]


@pytest.mark.parametrize(
    ("column", "counted"), [("received_ms", 1), ("event_id", 2), ("event_type", 2), ("timestamp_ms", 2)]
)
def test_a_row_without_a_value_is_removed_and_counts_only_if_it_had_landed(
    town: Town, column: str, counted: int
) -> None:
    rows = table_of_rows([like(1), like(2)])
    at = rows.column_names.index(column)
    rows = rows.set_column(at, rows.schema.field(at), pa.array([None, *rows[column].to_pylist()[1:]], rows[at].type))
    folder = town.home / "lake" / PARTITION
    folder.mkdir(parents=True)
    pq.write_table(rows, folder / "fire.parquet")
    _forgotten_in_town(town, counted, FIRST + 60)


@pytest.mark.parametrize("read_at", [FIRST + 60, FIRST + DAY + 12], ids=["loose", "compacted"])
def test_a_malformed_row_is_removed_and_counted_once_wherever_it_is(town: Town, read_at: int) -> None:
    odd = msgspec.json.encode(like(1) | {"watch_time_ratio": "much"}) + b"\n"
    town.lake.write(f"{PARTITION}/fire-1", odd + encode_rows([like(2)]))
    town.lake.write(f"{PARTITION}/fire-2", encode_rows([like(3), like(4, -(1 << 62))]))
    _forgotten_in_town(town, 3, read_at)
    assert town.lake.list("rejected") == []


def _forgotten_in_town(town: Town, counted: int, read_at: int) -> None:
    town.deliver(counted)
    town.night(read_at)
    assert town.counts().missing == 0
    forget_users(town.batch, ["ada"])
    town.night(FIRST + DAY + 13)
    found = town.reconcile().days[0]
    assert (found.removed, found.counts.missing) == (counted, 0)
    assert not [place for place in places_of(town, "ada") if "forgotten/" not in place]


def test_raw_events_that_were_removed_as_too_old_are_not_missing(town: Town) -> None:
    town = Town(town.home, {"PINGFEED_RAW_DAYS": "3"})
    town.land([like(1), like(2)])
    town.deliver(2)
    town.night(FIRST + 6 * DAY + 12)
    assert town.lake.list("events") == []
    before, after = (town.reconcile(now_ms=NOON + days * DAY_MS) for days in (3, 4))
    assert before.days[0].counts == expected(2, missing=2), "a day that is kept has to be there"
    assert after.days[0].counts == expected(2, landed=0)
    assert "older than PINGFEED_RAW_DAYS" in town.said(NOON + 4 * DAY_MS)


def test_raw_events_that_are_kept_for_ever_are_missing_however_old(town: Town) -> None:
    town.deliver(1)
    found = reconcile(town.lake, town.spool_dir, [TODAY], NOON + 9_000 * DAY_MS, raw_days=0)
    assert found.days[0].counts.missing == 1


def test_several_days_are_counted_in_one_pass(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    days = days_until(day_of(NOON + DAY_MS), 3)
    town.land([like(1), like(2)])
    town.land([like(3, NOON + DAY_MS)])
    town.deliver(2)
    town.deliver(2, day=days[2])
    found = [(one.counts.day, one.counts.landed, one.counts.missing) for one in town.reconcile(days).days]
    assert found == [(days[0], 0, 0), (days[1], 2, 0), (days[2], 1, 1)]


def test_a_file_that_vanishes_while_it_is_read_is_looked_for_again(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    town.land([like(1)])
    town.deliver(1)
    failures = [1]

    def each(lake: Any, paths: Any) -> Any:
        if failures:
            failures.pop()
            raise NotFound("compacted meanwhile")
        return each_events(lake, paths)

    monkeypatch.setattr(reconciling, "each_events", each)
    assert town.counts() == expected(1)


@pytest.mark.parametrize(
    ("later_ms", "says"),
    [(60_000, "still buffer them, until 2024-10-04T12:15:01.000Z"), (DAY_MS, "nor errors/ has them")],
)
def test_what_firehose_buffers_is_told_from_what_is_lost(town: Town, later_ms: int, says: str) -> None:
    town.deliver(2)
    said = town.said(NOON + later_ms, firehose=True)
    assert "2 delivered events are missing" in said
    assert says in said


def test_a_damaged_account_is_named(town: Town) -> None:
    town.lake.write("accounts/x.json", b"{}")
    with pytest.raises(FormatError, match=r"accounts/x\.json"):
        town.counts()


Printed = Callable[..., tuple[int, str]]


@pytest.fixture
def printed(town: Town, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Printed:
    monkeypatch.setenv("PINGFEED_HOME", str(town.home))
    monkeypatch.setenv("PINGFEED_RAW_DAYS", "0")
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str) -> tuple[int, str]:
        try:
            code = cli.main(["reconcile", *words])
        except SystemExit as ended:  # an option's value is wrong
            code = int(str(ended.code))
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def test_the_command_prints_the_contract_and_fails_if_something_is_missing(town: Town, printed: Printed) -> None:
    town.land([like(1)])
    town.deliver(1)
    code, text = printed("--day", TODAY, "--json")
    assert (code, list(json.loads(text))) == (
        0,
        ["day", "accepted", "spooled", "delivered", "landed", "duplicates", "missing", "short"],
    )
    shutil.rmtree(town.home / "lake" / "events")
    code, text = printed("--day", TODAY, "--json")
    assert (code, json.loads(text)["short"]) == (1, [PARTITION])
    code, text = printed("--day", TODAY, "--days", "2", "--json")
    assert (code, [one["missing"] for one in json.loads(text)]) == (1, [0, 1])


def test_the_command_knows_how_long_raw_events_are_kept(
    town: Town, printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    town.deliver(1)
    assert printed("--day", TODAY)[0] == 1
    monkeypatch.setenv("PINGFEED_RAW_DAYS", "30")
    code, text = printed("--day", TODAY)
    assert (code, "older than PINGFEED_RAW_DAYS" in text) == (0, True)


def test_the_command_shows_each_spool_and_when_it_was_last_heard_of(town: Town, printed: Printed) -> None:
    town.land([like(1)])
    town.deliver(1)
    town.publish("b", 0, 7)
    code, text = printed("--day", TODAY)
    assert (code, "nothing is missing" in text, "a" * 16 in text) == (0, True, True)
    (lost,) = [line for line in text.splitlines() if "b" * 16 in line]
    assert " 7 " in lost
    assert "1970-01-01T00:00:00.000Z" in lost
    assert day_of(system_clock()) in printed()[1]


@pytest.mark.parametrize(("words", "exit_code"), [(("--day", "yesterday"), 1), (("--days", "0"), 2)])
def test_the_command_rejects_an_invalid_day(printed: Printed, words: tuple[str, ...], exit_code: int) -> None:
    code, text = printed(*words)
    assert code == exit_code
    assert text.count("\n") == 1
