"""Accepted, delivered and landed agree to the event, whatever was killed, sent twice, compacted or forgotten."""

import base64
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch.accounting import reconcile as reconciling
from batch.accounting import report
from batch.accounting.landed import RawZone, key_of
from batch.accounting.reconcile import Counts, Report, days_until, reconcile
from batch.accounting.refused import refused, remove
from batch.forget.commands import forget_users
from batch.jobs.nightly import etl
from batch.lake.ledger import is_compacted
from batch.lake.raw_files import each_events
from pingfeed import cli
from pingfeed.adapters._firehose import pieces
from pingfeed.core.clock import DAY_MS, day_of, system_clock
from pingfeed.core.errors import FormatError, NotFound
from pingfeed.core.events import Row, encode_rows
from pingfeed.spool import stats
from pingfeed.spool.checkpoint import FILE, Delivered, Tally
from pingfeed.spool.stats import Account
from tests.unit.lakes import DAY, FIRST, FIRST_DAY, TICK_MS, LakeWorld, event_id, row

NOON = FIRST_DAY * DAY_MS + DAY_MS // 2
TODAY = day_of(NOON)
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
        tally.settled(tally.settled_to + 1, {day: count}, at_ms).write(path)

    def publish(self, account: Account) -> None:
        self.lake.write(f"accounts/{account.spool_id}.json", account.encode())

    def reconcile(self, days: Iterable[str] = (TODAY,), now_ms: int = NOON + 2000) -> Report:
        self.batch.tables.refresh()
        return reconcile(self.lake, self.spool_dir, list(days), now_ms, raw_days=self.batch.settings.raw_days)

    def counts(self, day: str = TODAY) -> Counts:
        return self.reconcile([day]).days[0].counts

    def night(self, tick: int) -> None:
        self.time.now_ms = tick * TICK_MS + 5000
        etl(self.batch, tick)


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


def test_what_was_delivered_has_landed_and_the_rest_waits(town: Town) -> None:
    town.land([like(1), like(2)])
    town.land([row("ping_created", NOON, ping_id="p1", creator_id="c")])
    town.deliver(3)
    town.waiting = {"a" * 16: {TODAY: 4, day_of(NOON + DAY_MS): 9}}
    assert town.counts() == expected(3, spooled=4)


def test_a_batch_that_was_delivered_again_after_a_kill_has_landed_once(town: Town) -> None:
    town.land([like(1), like(2)])
    town.land([like(1), like(2), like(3)])
    town.deliver(3)
    assert town.counts() == expected(3, duplicates=2)


def test_an_event_that_a_client_sent_again_is_two_acceptances_and_one_duplicate(town: Town) -> None:
    town.land([like(1), like(1, NOON + 60_000)])
    town.deliver(2)
    assert town.counts() == expected(2, duplicates=1)


def test_a_deleted_file_is_missing_and_its_partition_is_named(town: Town) -> None:
    town.land([like(1), like(2)])
    town.land([like(3)])
    town.deliver(3)
    (town.home / "lake" / PARTITION / "part-000001.parquet").unlink()
    assert town.counts() == expected(3, missing=2)
    (said,) = report.sentences(town.reconcile(), NOON + 2000, firehose=False)
    assert said == (
        f"{TODAY}: of 3 accepted events 1 are in the lake, 0 wait in a spool, 2 are missing: they were delivered to "
        f"{PARTITION}, and are not there any more. Restore its files."
    )


def test_a_duplicate_makes_up_for_no_missing_event(town: Town) -> None:
    town.land([like(1), like(1)])
    town.deliver(2)
    assert town.counts() == expected(2, missing=1, duplicates=1)


def test_written_history_was_never_accepted(town: Town) -> None:
    town.land([like(1)], history=True)
    town.land([like(2)])
    town.deliver(2)
    assert town.counts() == expected(2, missing=1)


def test_an_account_counts_its_day_of_arrival_only(town: Town) -> None:
    town.land([like(1), like(2, NOON + DAY_MS)])
    town.deliver(1)
    town.deliver(1, day=day_of(NOON + DAY_MS))
    assert town.counts() == expected(1)


@pytest.mark.parametrize("suffix", ["", "x.gz"])
def test_firehose_may_file_an_event_under_a_later_day_or_the_day_before(town: Town, suffix: str) -> None:
    town.lake.write(f"{NEXT_PARTITION}/stream{suffix}", encode_rows([like(1), like(2, NOON + DAY_MS)]))
    late = "events/year=2024/month=10/day=07/stream"
    town.lake.write(late, encode_rows([like(3)]))
    town.lake.write("events/year=2024/month=10/day=03/stream", encode_rows([like(4, FIRST_DAY * DAY_MS)]))
    town.deliver(3, at_ms=NOON + 2 * DAY_MS)
    assert town.counts() == expected(3)


def error_line(record: bytes) -> bytes:
    line = {"rawData": base64.b64encode(record).decode(), "arrivalTimestamp": NOON, "errorCode": "x"}
    return json.dumps(line).encode() + b"\n"


def test_what_firehose_could_not_convert_has_landed_each_once(town: Town) -> None:
    odd = encode_rows([{**like(2), "position": "third"}])
    town.lake.write(ERRORS, error_line(encode_rows([like(1)]) + odd) + error_line(odd) + error_line(b'{"not":"ours"}'))
    town.deliver(2)
    assert town.counts() == expected(2, duplicates=1)


def test_a_row_that_no_record_holds_has_landed_once_however_many_its_pieces(town: Town) -> None:
    huge = like(1) | {"extra": json.dumps({"event_id": "other", "received_ms": 5, "x": '"{' * 600_000})}
    cut = pieces(encode_rows([huge]))
    assert len(cut) > 2
    town.lake.write(ERRORS, b"".join(error_line(piece) for piece in cut))
    town.deliver(1)
    assert town.counts() == expected(1, landed=1)


def test_a_row_without_an_id_is_told_apart_by_its_bytes(town: Town) -> None:
    nameless = [{name: value for name, value in like(n, position=n).items() if name != "event_id"} for n in (1, 2)]
    town.lake.write(f"{PARTITION}/json", encode_rows([*nameless, nameless[0]]))
    town.deliver(2)
    assert town.counts() == expected(2, duplicates=1)


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
    assert key_of(document) == key


def test_compaction_changes_no_count(town: Town) -> None:
    town.land([row("ping_created", NOON, ping_id="p1", creator_id="c"), like(1)])
    town.land([like(2)])
    town.lake.write(f"{PARTITION}/json", encode_rows([like(3), {**like(4), "position": "third"}]) + b'{"bad":1}\n')
    town.deliver(5)
    before = town.counts()
    town.time.now_ms = (FIRST + 2 * DAY) * TICK_MS
    etl(town.batch, FIRST + 2 * DAY)
    assert all(is_compacted(path) for path in town.lake.list(PARTITION))
    assert town.counts() == before == expected(5)


def test_a_line_that_shows_that_an_event_has_landed_outlives_its_replay(town: Town) -> None:
    town.lake.write(f"{PARTITION}/one", encode_rows([{**like(1), "position": "third"}, like(2)]))
    town.lake.write(f"{PARTITION}/two", encode_rows([like(3)]))
    town.deliver(3)
    town.night(FIRST + DAY + 12)
    assert all(is_compacted(path) for path in town.lake.list(PARTITION))
    (line,) = refused(town.lake)
    assert remove(town.lake, town.home / "lake", {line.path: {line.id}}) == 0
    assert town.counts() == expected(3)


def test_what_a_forgotten_user_had_removed_is_not_missing(town: Town) -> None:
    town.land([like(1)])
    town.deliver(4)
    tombstone = {"hash": "h", "at_ms": 1, "done_ms": 2, "removed": {TODAY: 2, "2024-10-05": 9}}
    town.lake.write("forgotten/h.json", json.dumps(tombstone).encode())
    town.lake.write("forgotten/asked.json", b'{"hash":"i","at_ms":1}')
    assert town.counts() == expected(4, landed=1, missing=1)
    (said,) = report.sentences(town.reconcile(), NOON + 2000, firehose=False)
    assert "2 were removed because their users asked" in said


def test_what_a_night_removes_for_a_forgotten_user_meanwhile_is_not_missing(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    town.land([like(1), like(2)])
    town.deliver(2)
    town.night(FIRST + 60)
    forget_users(town.batch, ["ada"])

    def zone(*given: Any) -> RawZone:
        town.night(FIRST + DAY + 12)
        return RawZone(*given)

    monkeypatch.setattr(reconciling, "RawZone", zone)
    found = town.reconcile().days[0]
    assert (found.removed, found.counts) == (2, expected(2, landed=0))


def test_raw_events_that_were_removed_as_too_old_are_not_missing(town: Town) -> None:
    town = Town(town.home, {"PINGFEED_RAW_DAYS": "3"})
    town.land([like(1), like(2)])
    town.deliver(2)
    town.night(FIRST + 6 * DAY + 12)
    assert town.lake.list("events") == []
    before, after = (town.reconcile(now_ms=NOON + days * DAY_MS) for days in (3, 4))
    assert before.days[0].counts == expected(2, missing=2), "a day that is kept has to be there"
    assert after.days[0].counts == expected(2, landed=0)
    (said,) = report.sentences(after, NOON, firehose=False)
    assert "older than 3 days (PINGFEED_RAW_DAYS) were removed as too old" in said
    assert "missing" not in said


def test_raw_events_that_are_kept_for_ever_are_missing_however_old(town: Town) -> None:
    town.deliver(1)
    found = reconcile(town.lake, town.spool_dir, [TODAY], NOON + 9_000 * DAY_MS, raw_days=0)
    assert found.days[0].counts.missing == 1


def test_spools_of_other_machines_count_by_what_they_published(town: Town) -> None:
    town.land([like(1), like(2), like(3)])
    town.deliver(1)
    days = {TODAY: Delivered(2, NOON)}
    there = Account(spool_id="b" * 16, service="feed", days=days, spooled={TODAY: 7}, published_ms=NOON)
    town.publish(there)
    assert town.counts() == expected(3, spooled=7)


def test_what_this_machine_sees_of_a_spool_is_fresher_than_what_it_published(town: Town) -> None:
    stale = Account(spool_id="a" * 16, service="ingest", spooled={TODAY: 1}, published_ms=1)
    town.publish(stale)
    town.land([like(1)])
    town.deliver(1)
    assert town.counts() == expected(1)


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

    monkeypatch.setattr("batch.accounting.landed.each_events", each)
    assert town.counts() == expected(1)


def test_a_file_that_cannot_be_read_is_named(town: Town) -> None:
    town.land([like(1)])
    town.lake.write(f"{PARTITION}/torn", b"PAR1 torn")
    town.deliver(2)
    found = town.reconcile()
    assert found.days[0].counts == expected(2, missing=1)
    *_, said = report.sentences(found, NOON, firehose=False)
    assert said.startswith("1 files cannot be read")
    assert f"{PARTITION}/torn" in said


@pytest.mark.parametrize(
    ("later_ms", "says"), [(60_000, "may hold them until 2024-10-04T12:15:01.000Z"), (DAY_MS, "nor errors/ has them")]
)
def test_what_firehose_holds_is_told_from_what_is_lost(town: Town, later_ms: int, says: str) -> None:
    town.deliver(2)
    found = town.reconcile()
    (said,) = report.sentences(found, NOON + later_ms, firehose=True)
    assert "2 are missing" in said
    assert says in said


def test_a_day_that_nobody_accounted_for_is_said_to_be_one(town: Town) -> None:
    (said,) = report.sentences(town.reconcile(), NOON, firehose=False)
    assert "nothing is known of that day" in said
    town.land([like(1)])
    (said,) = report.sentences(town.reconcile(), NOON, firehose=False)
    assert "no spool has an account of that day" in said
    assert town.counts() == expected(0, landed=1)


def test_more_than_was_delivered_is_explained_and_a_silent_spool_is_named(town: Town) -> None:
    town.land([like(1), like(2)])
    town.publish(Account(spool_id="b" * 16, service="feed", days={TODAY: Delivered(1, 1)}, spooled={TODAY: 7}))
    (said,) = report.sentences(town.reconcile(), NOON, firehose=False)
    assert "1 are there that no spool counts as delivered" in said
    assert "7 events wait in the spool bbbbbbbbbbbbbbbb of feed, which is not on this machine" in said
    assert "was last heard of at 1970-01-01T00:00:00.000Z. If that spool is gone, so are they" in said


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
        code = cli.main(["reconcile", *words])
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
    assert (code, "older than 30 days (PINGFEED_RAW_DAYS)" in text) == (0, True)


def test_the_command_tells_a_person(town: Town, printed: Printed) -> None:
    town.land([like(1)])
    town.deliver(1)
    code, text = printed("--day", TODAY)
    assert code == 0
    assert "of 1 accepted events 1 are in the lake, 0 wait in a spool, none is missing." in text
    assert "aaaaaaaaaaaaaaaa" in text
    assert day_of(system_clock()) in printed()[1]


@pytest.mark.parametrize("words", [("--day", "yesterday"), ("--days", "0")])
def test_the_command_refuses_what_is_no_day(printed: Printed, words: tuple[str, ...]) -> None:
    code, text = printed(*words)
    assert code == 1
    assert text.count("\n") == 1


def test_arrow_columns_of_every_form_can_be_counted(town: Town) -> None:
    """What another writer left: large strings, dictionaries."""
    table = pa.table({"event_id": pa.array(["i"]).dictionary_encode(), "event_type": ["like"], "user_id": ["u"]})
    table = table.append_column("received_ms", pa.array([NOON])).append_column("timestamp_ms", pa.array([NOON]))
    pq.write_table(table, town.home / "other")
    town.lake.write(f"{PARTITION}/other", (town.home / "other").read_bytes())
    town.deliver(1)
    assert town.counts() == expected(1)
