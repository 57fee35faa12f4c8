"""`pingfeed provision`."""

import os
import sys

from deploy import provision as providing
from pingfeed.settings import load


def provision(*, wait: float) -> None:
    """`pingfeed provision`."""
    needed = False
    for url, made in providing.provision(load(os.environ), wait):
        needed = True
        for sentence in made or ["exists already"]:
            sys.stdout.write(f"{url}: {sentence}\n")
            sys.stdout.flush()
    if not needed:
        sys.stdout.write("nothing to create: no URL of the settings names a bucket, a table or a stream\n")
