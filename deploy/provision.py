"""`pingfeed provision`: create the AWS resources that the settings name. Existing ones are kept.

For containers, compose and emulators; `deploy/template.yaml` makes its own. `pingfeed doctor` reports how either has
drifted since.
"""

import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from pingfeed.core.errors import InvalidInput, PingfeedError, SettingsError, Unavailable
from pingfeed.core.urls import masked, scheme_of
from pingfeed.settings import PREFIX, SCHEMES, Settings, load

MAKERS: Final[Mapping[str, str]] = {
    "s3": "deploy.bucket:ensure",
    "dynamodb": "deploy.tables:ensure",
    "firehose": "deploy.stream:ensure",
}
"""Scheme -> `module:function`, in the order in which they run: a stream needs the bucket that it writes to. Other
schemes need no provisioning. The function takes the URL (a stream's also the lake's) and returns a sentence for each
change, none if everything exists. It raises SettingsError, and Unavailable while AWS does not respond. Its module also
has `flaws`, which takes the same and returns how the resource differs."""

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
    for name, module, function, arguments in _resources(settings):
        make = getattr(importlib.import_module(module), function)
        yield masked(arguments[0]), _make(make, arguments, PREFIX + name.upper(), deadline)


def drift(settings: Settings) -> Iterator[tuple[str, bool, str]]:
    """How each resource differs from what `provision` makes: its URL, whether it was looked at, what was found.

    Reads only; "" is no difference.
    """
    for _, module, _, arguments in _resources(settings):
        try:
            found = importlib.import_module(module).flaws(*arguments)
            yield masked(arguments[0]), True, "; ".join(found)
        except PingfeedError as error:
            yield masked(arguments[0]), False, f"cannot be checked: {error.message}"
            if "does not respond" in error.message:  # Nor will the others: each waits for its time-outs.
                return


def _resources(settings: Settings) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """Setting, module, function and its arguments of each URL that names a resource."""
    named = {url: name for name in SCHEMES if scheme_of(url := getattr(settings, name) or "") in MAKERS}
    for url in sorted(named, key=lambda url: list(MAKERS).index(scheme_of(url))):
        module, _, function = MAKERS[scheme_of(url)].partition(":")
        yield named[url], module, function, (url, settings.lake_url) if scheme_of(url) == "firehose" else (url,)


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
