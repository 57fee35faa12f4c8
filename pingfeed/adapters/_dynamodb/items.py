"""Items in DynamoDB: keys, sizes, compressed values, and the packet's item.

Every table has one key, the string `k`. Its prefix says what the item is, so that one table may hold all kinds:

    p/<user id>    a packet (here)
    s/<user id>    a user's signals (`pingfeed/adapters/user_signals_dynamodb.py`)
    d/             the recently deleted pings: the head, and
    d/<name>       a part of the list (`pingfeed/adapters/_dynamodb/deleted.py`)

The packet's item: `p` (binary) the packet, `e` (number) the instant it expires, epoch ms, `t` (number) that instant
in seconds, rounded up, for DynamoDB's TTL, which removes items up to days later: readers go by `e`.

Attribute names have one letter, as they are stored, and billed, with every item. `Item` is the wire format, for
example {"k": {"S": "p/user-0042"}, "t": {"N": "1798381500"}}.

A compressed value is a format byte, then zlib: compression halves ids and times, and items are billed by the KiB. One
of another format raises FormatError and is kept, as a newer version wrote it; a damaged one raises ValueError.
"""

import zlib
from collections.abc import Mapping
from typing import Any, Final

from pingfeed.aws import KEY, TTL
from pingfeed.core.errors import FormatError

Item = Mapping[str, Mapping[str, Any]]

MAX_ITEM_BYTES: Final = 400 * 1024
_WRITE_UNIT_BYTES: Final = 1024
_FORMAT: Final = 1
_LEVEL: Final = 6


def item_bytes(item: Item) -> int:
    """The item's size as DynamoDB bills and limits it: names and values, for the types used here."""
    return sum(len(name.encode()) + _value_bytes(value) for name, value in item.items())


def write_units(item: Item) -> int:
    """The write units of putting the item: one per started KiB (of the replaced item, if that was larger)."""
    return max(1, -(-item_bytes(item) // _WRITE_UNIT_BYTES))


def _value_bytes(value: Mapping[str, Any]) -> int:
    ((kind, content),) = value.items()
    match kind:
        case "S":
            return len(content.encode())
        case "B":
            return len(content)
        case "N":
            # A byte for two digits and one for the exponent; trailing zeros, which are free, are counted too.
            return (len(content) + 1) // 2 + 1
        case _:
            raise ValueError(f"unsupported attribute type {kind}")


def ttl(expires_ms: int) -> Mapping[str, str]:
    """The value of the TTL attribute: never earlier than the exact instant."""
    return {"N": str(-(-expires_ms // 1000))}


def packet_key(user_id: str) -> str:
    """The key of a user's packet."""
    return f"p/{user_id}"


def packet_item(user_id: str, packet: bytes, expires_ms: int) -> Item:
    """The item that stores a packet."""
    return {KEY: {"S": packet_key(user_id)}, "p": {"B": packet}, "e": {"N": str(expires_ms)}, TTL: ttl(expires_ms)}


def packet_of(item: Item | None, now_ms: int) -> bytes | None:
    """The packet in an item, None if it has expired; FormatError if the item has another format."""
    if item is None:
        return None
    try:
        packet, expires_ms = item["p"]["B"], int(item["e"]["N"])
    except (KeyError, ValueError) as error:
        raise FormatError(f"the stored packet {item[KEY].get('S')} has another format") from error
    return bytes(packet) if expires_ms > now_ms else None


def compress(data: bytes) -> bytes:
    """The stored form of `data`."""
    return bytes([_FORMAT]) + zlib.compress(data, _LEVEL)


def decompress(what: str, value: bytes) -> bytes:
    """The inverse of `compress`; `what` is named in errors."""
    if value[:1] != bytes([_FORMAT]):
        raise FormatError(f"{what}: unsupported format {value[:1].hex() or 'none'}")
    try:
        return zlib.decompress(value[1:])
    except zlib.error as error:
        raise ValueError(f"{what}: {error}") from error
