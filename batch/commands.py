"""The batch side's commands."""

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from datetime import datetime

import msgspec
from rich.console import Console
from rich.table import Table

from batch.jobs import tick as ticking
from batch.jobs.lease import lease
from batch.jobs.nightly import etl as run_etl
from batch.jobs.schedule import Schedule
from batch.lake.ledger import in_words
from batch.training import models
from batch.training import skew as skewing
from batch.training.train import DAYS
from batch.training.train import train as run_train
from batch.wiring import NEEDS, Batch, build
from pingfeed import checks, settings
from pingfeed.core.clock import system_clock, to_iso, to_ms
from pingfeed.core.errors import InvalidInput
from pingfeed.telemetry import configure_logs

Options = argparse.Namespace
_LOG = logging.getLogger(__name__)


def etl(parser: argparse.ArgumentParser) -> None:
    """`pingfeed etl`."""
    _common(parser)
    parser.set_defaults(run=_locked(_etl))


def tick(parser: argparse.ArgumentParser) -> None:
    """`pingfeed tick`."""
    _common(parser)
    parser.add_argument("--all", action="store_true", help="packets for everyone seen in 30 days, not only the active")
    parser.set_defaults(run=_locked(_tick))


def train(parser: argparse.ArgumentParser) -> None:
    """`pingfeed train`."""
    _common(parser)
    parser.add_argument("--days", type=int, default=DAYS, help="how many days back to learn from (default %(default)s)")
    parser.set_defaults(run=_locked(_train))


def schedule(parser: argparse.ArgumentParser) -> None:
    """`pingfeed schedule`."""
    parser.add_argument("--once", action="store_true", help="run what is due, tick and night, then stop")
    parser.add_argument("--night", action="store_true", help="with --once: run the night too, whatever the hour")
    parser.set_defaults(run=_schedule)


def skew(parser: argparse.ArgumentParser) -> None:
    """`pingfeed skew`."""
    _common(parser)
    parser.add_argument("--days", type=int, default=2, help="how many days of logged vectors (default %(default)s)")
    parser.set_defaults(run=_with_batch(_skew))


def model(parser: argparse.ArgumentParser) -> None:
    """`pingfeed model`."""
    parser.add_argument("action", choices=["list", "promote", "rollback"])
    parser.add_argument("model_id", nargs="?", help="with promote: which one")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.set_defaults(run=_with_batch(_model))


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--at", metavar="TIME", help="act as at this time (ISO 8601, UTC), to replay the past")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON, and no progress")
    parser.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="for another run to end (default 0)")


def _with_batch(run: Callable[[Batch, Options], int]) -> Callable[[Options], int]:
    def command(options: Options) -> int:
        at = getattr(options, "at", None)
        moment = None if at is None else _moment(at)
        clock = system_clock if moment is None else lambda: moment
        quiet = bool(getattr(options, "json", False))
        return run(build(settings.load(os.environ), clock=clock, quiet=quiet), options)

    return command


def _locked(run: Callable[[Batch, Options], int]) -> Callable[[Options], int]:
    def guarded(batch: Batch, options: Options) -> int:
        with lease(batch.settings.home, wait_s=options.wait):
            return run(batch, options)

    return _with_batch(guarded)


def _moment(text: str) -> int:
    try:
        return to_ms(datetime.fromisoformat(text))
    except ValueError as error:
        raise InvalidInput(f"--at {text!r} is not a time such as 2026-11-22T12:00:00Z", field="at") from error


def _now_tick(batch: Batch) -> int:
    return batch.ticks.of(batch.clock())


def _say(options: Options, sentence: str, result: object) -> None:
    text = msgspec.json.encode(result, enc_hook=vars).decode() if options.json else sentence
    sys.stdout.write(f"{text}\n")


def _etl(batch: Batch, options: Options) -> int:
    done = run_etl(batch, _now_tick(batch))
    learned = in_words(read=done.read, kept=done.kept, refused=done.refused, left_out=done.left_out)
    _say(options, f"tick {done.tick}: {learned}; {len(done.files):,} files", done)
    return 0


def _tick(batch: Batch, options: Options) -> int:
    done = ticking.run(batch, _now_tick(batch), everyone=options.all)
    learned = in_words(read=done.read, kept=done.events, refused=done.refused, left_out=done.left_out)
    sentence = (
        f"tick {done.tick}: {learned}; {done.pings:,} pings in the snapshot, {done.packets:,} packets "
        f"(95 % within {done.packet_bytes_p95} bytes)"
    )
    if done.packets:
        spread = ", ".join(f"{count:,} take {units}" for units, count in done.packet_write_units.items())
        sentence += f"; write units in DynamoDB: {spread} (95 % at most {done.packet_write_units_p95})"
    if done.waiting:
        sentence += f"; {done.waiting:,} acknowledged events have not landed yet, a later tick takes them"
    _say(options, sentence, done)
    return 0


def _train(batch: Batch, options: Options) -> int:
    outcome = run_train(batch, _now_tick(batch), days=options.days)
    _say(options, outcome.sentence, {"sentence": outcome.sentence, "model": outcome.manifest})
    return 0


def _schedule(options: Options) -> int:
    chosen = settings.load(os.environ)
    configure_logs()
    _LOG.info("settings that apply", extra={"settings": settings.shown(chosen)})
    checks.wait_for_parts(chosen, "batch", NEEDS)
    plan = Schedule(build(chosen, quiet=True))
    if options.once:
        plan.run_once(night=options.night or None)
        return 0
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    plan.run_forever(stop)
    return 0


def _skew(batch: Batch, options: Options) -> int:
    today = batch.ticks.day(_now_tick(batch))
    found = skewing.measure(batch, today - options.days, today)
    worst = ", ".join(f"{name} ({count})" for name, count in found.features.items())
    sentence = f"{found.rows:,} logged rows, {found.differing:,} differ" + (f": {worst}" if worst else "")
    _say(options, sentence, {"rows": found.rows, "differing": found.differing})
    return 1 if found.differing else 0


def _model(batch: Batch, options: Options) -> int:
    if options.action == "promote":
        if options.model_id is None:
            raise InvalidInput("model promote needs the id of a model; `pingfeed model list` shows them")
        models.promote(batch, options.model_id)
    elif options.action == "rollback":
        models.roll_back(batch)
    listed = models.listed(batch)
    if options.json:
        _say(options, "", [{"live": live, "manifest": manifest} for manifest, live in listed])
        return 0
    table = Table("model", "trained", "requests", "NDCG@10", "popularity", "live", "gate", title="Models")
    for manifest, live in listed:
        metrics = manifest.metrics
        table.add_row(
            manifest.model_id,
            to_iso(manifest.created_ms),
            f"{manifest.trained_requests:,}",
            f"{metrics['ndcg_at_10']:.4f}",
            f"{metrics['popularity_ndcg_at_10']:.4f}",
            "live" if live else "",
            manifest.gate,
        )
    Console().print(table)
    return 0
