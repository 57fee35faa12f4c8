"""`pingfeed provision`: create the AWS resources that the settings name. Existing ones are kept."""

import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from pingfeed.core.errors import InvalidInput, SettingsError, Unavailable
from pingfeed.core.urls import masked, scheme_of
from pingfeed.settings import PREFIX, SCHEMES, Settings, load

MAKERS: Final[Mapping[str, str]] = {
    "s3": "deploy.bucket:ensure",
    "dynamodb": "deploy.tables:ensure",
    "firehose": "deploy.stream:ensure",
}
"""Scheme -> `module:function`, in the order in which they run: a stream needs the bucket that it writes to. Other
schemes need no provisioning. The function takes the URL (a stream's also the lake's) and returns a sentence for each
change, none if everything exists. It raises SettingsError, and Unavailable while AWS does not respond."""

WAIT_S: Final = 60.0
_PAUSE_S: Final = 0.5


def command(*, wait: float) -> None:
    """`pingfeed provision`."""
    needed = False
    for url, changes in provision(load(os.environ), wait):
        needed = True
        for sentence in changes or ["exists already"]:
            sys.stdout.write(f"{url}: {sentence}\n")
            sys.stdout.flush()
    if not needed:
        sys.stdout.write("nothing to create: no URL of the settings names a bucket, a table or a stream\n")


def provision(settings: Settings, wait_s: float = WAIT_S) -> Iterator[tuple[str, list[str]]]:
    """Provision each URL that needs it; yields the URL (masked) and a sentence for each change.

    SettingsError names the variable whose URL cannot be provisioned within `wait_s`, which is the limit for all.
    """
    deadline = time.monotonic() + wait_s
    named = {url: name for name in SCHEMES if scheme_of(url := getattr(settings, name) or "") in MAKERS}
    for url in sorted(named, key=lambda url: list(MAKERS).index(scheme_of(url))):
        module, _, function = MAKERS[scheme_of(url)].partition(":")
        make = getattr(importlib.import_module(module), function)
        arguments = (url, settings.lake_url) if scheme_of(url) == "firehose" else (url,)
        yield masked(url), _make(make, arguments, PREFIX + named[url].upper(), deadline)


def _make(make: Callable[..., list[str]], arguments: tuple[str, ...], variable: str, deadline: float) -> list[str]:
    """Call `make` until it succeeds or the deadline has passed."""
    while True:
        try:
            return make(*arguments)
        except Unavailable as error:
            if time.monotonic() + _PAUSE_S > deadline:
                raise SettingsError(f"{variable} is {masked(arguments[0])}: {error.message}", field=variable) from error
            time.sleep(_PAUSE_S)
        except InvalidInput as error:
            raise SettingsError(f"{variable} {error.message}", field=variable) from error
