"""`pingfeed provision`."""

import argparse
import os
import sys

from deploy import provision as providing
from pingfeed.settings import load


def provision(parser: argparse.ArgumentParser) -> None:
    """Configure `pingfeed provision`."""
    parser.add_argument(
        "--wait",
        type=float,
        metavar="SECONDS",
        default=providing.WAIT_S,
        help="how long AWS may take to answer (default: %(default)g)",
    )
    parser.set_defaults(run=_provision)


def _provision(options: argparse.Namespace) -> int:
    needed = False
    for url, made in providing.provision(load(os.environ), options.wait):
        needed = True
        for sentence in made or ["there already"]:
            sys.stdout.write(f"{url}: {sentence}\n")
            sys.stdout.flush()
    if not needed:
        sys.stdout.write("nothing to make: no URL of the settings names a bucket, a table or a stream\n")
    return 0
