"""The optional context of an event (country, language, device, app version): normalised, or dropped if that fails.

Devices write the same language in many ways: `en_US`, `EN-us`, `zh_TW_#Hant`, `en_US.UTF-8`, `en-US-u-fw-mon`. What
they say about themselves never costs the event.
"""

import re
from functools import lru_cache
from typing import Annotated, Any, Final

from msgspec import Meta

Country = Annotated[str, Meta(pattern=r"^[A-Z]{2}(?!\n)$", description="ISO 3166-1 alpha-2")]
Language = Annotated[
    str, Meta(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*(?!\n)$", max_length=35, description="BCP 47")
]
Text = Annotated[str, Meta(max_length=64)]
CONTEXT_FIELDS: Final = {"country": Country, "language": Language, "device": Text, "app_version": Text}
"""Each field with what the lake keeps of it."""
MAX_TEXT: Final = 64
MAX_LANGUAGE: Final = 35
SHORT: Final = 200
"""Longer values are not kept in the cache, and are no codes."""
_ALPHA2: Final = re.compile(r"[A-Za-z]{2}")
_TAG: Final = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]{1,8})*")


def normalised(field: str, value: Any) -> str | None:
    """The value to keep, None if there is none: `US` for "us", `en-US` for "en_US", 64 characters of a device."""
    if not isinstance(value, str):
        return None
    if len(value) <= SHORT:
        return normalised_short(field, value)
    return value.strip()[:MAX_TEXT] or None if field in ("device", "app_version") else None


@lru_cache(4096)
def normalised_short(field: str, value: str) -> str | None:
    """`normalised` of a text of at most `SHORT` characters; most are seen again and again."""
    if field in ("device", "app_version"):
        return value.strip()[:MAX_TEXT] or None
    if field == "country":
        return value.strip().upper() if _ALPHA2.fullmatch(value.strip()) else None
    # POSIX appends an encoding and a modifier, Java a script.
    tag = re.split(r"[.@]", value.strip(), maxsplit=1)[0].replace("_", "-").replace("#", "")
    return _language(tag) if _TAG.fullmatch(tag) else None


def _language(tag: str) -> str:
    """A BCP 47 tag in its usual case without extensions (calendars, first days); a long one without variants too."""
    primary, *rest = tag.split("-")
    script = region = ""
    variants: list[str] = []
    for part in rest:
        if len(part) == 1:  # Extensions and private use follow.
            break
        if len(part) == 4 and part.isalpha() and not script:
            script = part.title()
        elif (len(part) == 2 and part.isalpha()) or (len(part) == 3 and part.isdigit()):
            region = region or part.upper()
        else:
            variants.append(part.lower())
    short = [part for part in (primary.lower(), script, region) if part]
    whole = "-".join([*short, *variants])
    return whole if len(whole) <= MAX_LANGUAGE else "-".join(short)
