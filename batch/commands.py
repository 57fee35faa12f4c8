"""The commands of the batch side's steps: etl, tick, train, schedule, skew, model."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from batch.jobs import rebuild
from batch.jobs import tick as ticking
from batch.jobs.nightly import etl as run_etl
from batch.jobs.schedule import Schedule
from batch.lake.ledger import in_words
from batch.training import models
from batch.training import skew as skewing
from batch.training.train import train as run_train
from batch.wiring import NEEDS, Batch, build
from pingfeed import checks, settings
from pingfeed.core.clock import system_clock, to_iso
from pingfeed.core.words import counted
from pingfeed.telemetry import configure_logs
from pingfeed.terminal import print_json, print_table

_LOG = logging.getLogger(__name__)


def _open(at: int | None = None, *, json: bool) -> Batch:
    clock = system_clock if at is None else lambda: at
    return build(settings.load(os.environ), clock=clock, quiet=json)


@contextmanager
def _leased(at: int | None, wait_s: float, *, json: bool) -> Iterator[tuple[Batch, int]]:
    """The batch side and its current tick, under the lease."""
    batch = _open(at, json=json)
    with batch.lease(wait_s):
        rebuild.enable(batch)
        yield batch, batch.ticks.of(batch.clock())


def _say(sentence: str, result: object, *, json: bool) -> None:
    if json:
        print_json(result)
    else:
        sys.stdout.write(f"{sentence}\n")


def etl(*, at: int | None, json: bool, wait: float) -> None:
    """`pingfeed etl`."""
    with _leased(at, wait, json=json) as (batch, now_tick):
        done = run_etl(batch, now_tick)
    read = in_words(
        read=done.read, kept=done.kept, rejected=done.rejected, left_out=done.left_out, quarantined=done.quarantined
    )
    _say(f"tick {done.tick}: {read}; files read: {len(done.files):,}", done, json=json)


def tick(*, at: int | None, json: bool, wait: float, everyone: bool) -> None:
    """`pingfeed tick`."""
    with _leased(at, wait, json=json) as (batch, now_tick):
        done = ticking.run(batch, now_tick, everyone=everyone)
    read = in_words(
        read=done.read, kept=done.events, rejected=done.rejected, left_out=done.left_out, quarantined=done.quarantined
    )
    sentence = (
        f"tick {done.tick}: {read}; {counted(done.pings, 'ping')} in the snapshot, {counted(done.packets, 'packet')} "
        f"(bytes p50/p95: {done.packet_bytes_p50:,}/{done.packet_bytes_p95:,})"
    )
    if done.quarantined_users:
        sentence += f"; users whose packet could not be made: {done.quarantined_users:,} (quarantined)"
    if done.waiting:
        waiting = counted(done.waiting, "acknowledged event has", "acknowledged events have")
        sentence += f"; {waiting} not landed yet: a later tick loads what lands"
    _say(sentence, done, json=json)


def train(*, at: int | None, json: bool, wait: float, days: int) -> None:
    """`pingfeed train`."""
    with _leased(at, wait, json=json) as (batch, now_tick):
        outcome = run_train(batch, now_tick, days=days)
    _say(outcome.sentence, {"sentence": outcome.sentence, "model": outcome.manifest}, json=json)


def schedule(*, once: bool, night: bool) -> None:
    """`pingfeed schedule`."""
    chosen = settings.load(os.environ)
    configure_logs()
    _LOG.info("settings that apply", extra={"settings": settings.shown(chosen)})
    checks.wait_for_parts(chosen, "batch", NEEDS)
    plan = Schedule(build(chosen, quiet=True))
    if once:
        plan.run_once(night=night or None)
        return
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    plan.run_forever(stop)


def skew(*, at: int | None, json: bool, days: int) -> int:
    """`pingfeed skew`."""
    batch = _open(at, json=json)
    today = batch.ticks.day(batch.ticks.of(batch.clock()))
    found = skewing.measure(batch, today - days, today)
    worst = ", ".join(f"{name} ({count})" for name, count in found.features.items())
    differing = counted(found.differing, "differs", "differ") + (f": {worst}" if worst else "")
    sentence = f"{counted(found.rows, 'logged row')}, {differing}"
    _say(sentence, {"rows": found.rows, "differing": found.differing}, json=json)
    return 1 if found.differing else 0


def model_list(*, json: bool) -> None:
    """`pingfeed model list`."""
    _print_models(_open(json=json), json=json)


def model_promote(*, model_id: str, json: bool) -> None:
    """`pingfeed model promote`."""
    batch = _open(json=json)
    models.promote(batch, model_id)
    _print_models(batch, json=json)


def model_rollback(*, json: bool) -> None:
    """`pingfeed model rollback`."""
    batch = _open(json=json)
    models.roll_back(batch)
    _print_models(batch, json=json)


def _print_models(batch: Batch, *, json: bool) -> None:
    listed = models.listed(batch)
    if json:
        print_json([{"live": live, "manifest": manifest} for manifest, live in listed])
        return
    rows = [
        (
            manifest.model_id,
            to_iso(manifest.created_ms),
            f"{manifest.trained_requests:,}",
            f"{manifest.metrics['ndcg_at_10']:.4f}",
            f"{manifest.metrics['popularity_ndcg_at_10']:.4f}",
            "live" if live else "",
            manifest.gate,
        )
        for manifest, live in listed
    ]
    print_table(("model", "trained", "requests", "NDCG@10", "popularity", "live", "gate"), rows, title="Models")
