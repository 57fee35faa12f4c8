"""What the URLs of the settings need in AWS (or an emulator): made where it is missing, left alone where it is there.

A scheme that is not in `MAKERS` needs nothing: files and SQLite are made by whoever writes first, a cache is a server.
"""

import importlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from pingfeed.core.errors import InvalidInput, SettingsError, Unavailable
from pingfeed.core.urls import masked, scheme_of
from pingfeed.settings import PREFIX, SCHEMES, Settings

MAKERS: Final[Mapping[str, str]] = {
    "s3": "deploy.bucket:ensure",
    "dynamodb": "deploy.tables:ensure",
    "firehose": "deploy.stream:ensure",
}
"""Scheme -> `module:function`. Called with the URL, a stream's with the lake's too (where it delivers to); again, it
makes nothing. Returns a sentence for each thing that it made. Raises SettingsError, and Unavailable while AWS does not
answer."""

WAIT_S: Final = 60.0
_PAUSE_S: Final = 0.5


def provision(settings: Settings, wait_s: float = WAIT_S) -> Iterator[tuple[str, list[str]]]:
    """Each URL (masked) that needs something, with a sentence for each thing that was made for it.

    Buckets come first, for a stream is told where it delivers to. SettingsError names the variable whose URL cannot be
    provided for, within `wait_s` for all of them together.
    """
    deadline = time.monotonic() + wait_s
    named = {url: name for name in SCHEMES if scheme_of(url := getattr(settings, name) or "") in MAKERS}
    for url in sorted(named, key=lambda url: list(MAKERS).index(scheme_of(url))):
        module, _, function = MAKERS[scheme_of(url)].partition(":")
        make = getattr(importlib.import_module(module), function)
        arguments = (url, settings.lake_url) if scheme_of(url) == "firehose" else (url,)
        yield masked(url), _made(make, arguments, PREFIX + named[url].upper(), deadline)


def _made(make: Callable[..., Any], arguments: tuple[str, ...], variable: str, deadline: float) -> list[str]:
    while True:
        try:
            return list(make(*arguments) or ())
        except Unavailable as error:
            if time.monotonic() + _PAUSE_S > deadline:
                raise SettingsError(f"{variable} is {masked(arguments[0])}: {error.message}", field=variable) from error
            time.sleep(_PAUSE_S)
        except InvalidInput as error:
            raise SettingsError(f"{variable} {error.message}", field=variable) from error
