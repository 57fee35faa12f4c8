"""Items in DynamoDB: keys, sizes, compressed values, and the packet's item.

Every table has one key, the string `k`. Its prefix says what the item is, so that one table may hold all kinds:

    p/<user id>    a packet (here)
    s/<user id>    the head of a user's signals, and beside it (`pingfeed/adapters/user_signals_dynamodb.py`)
    s/<user id>/session, s/<user id>/seen, s/<user id>/<parts>.<part>
    d/             the recently deleted pings: the head, and
    d/<name>       a part of the list (`pingfeed/adapters/_dynamodb/deleted.py`)

The packet's item: `p` (binary) the packet, `e` (number) the instant it expires, epoch ms, `t` (number) that instant
in seconds, rounded up, for DynamoDB's TTL, which removes items up to days later: readers go by `e`.

Attribute names have one letter, as they are billed with every item. `Item` is the wire format, for example
{"k": {"S": "p/user-0042"}, "t": {"N": "1798381500"}}. A compressed value is a format byte, then zlib, which halves ids
and times; a sealed one is a format byte, a CRC-32 and the data. One of another format raises FormatError and is kept,
as a newer version wrote it; a damaged one raises ValueError.
"""

import secrets
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
_SEALED: Final = 2
_SEAL_BYTES: Final = 5


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
        case "L":
            return 3 + sum(1 + _value_bytes(entry) for entry in content)
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


def seal(data: bytes) -> bytes:
    """The stored form of `data` where compressing gains nothing."""
    return bytes([_SEALED]) + zlib.crc32(data).to_bytes(4) + data


def unseal(what: str, value: bytes) -> bytes:
    """The inverse of `seal`; `what` is named in errors."""
    if value[:1] != bytes([_SEALED]):
        raise FormatError(f"{what}: unsupported format {value[:1].hex() or 'none'}")
    data = value[_SEAL_BYTES:]
    if zlib.crc32(data).to_bytes(4) != value[1:_SEAL_BYTES]:
        raise ValueError(f"{what}: its checksum does not match")
    return data


def version_of(item: Item | None) -> int:
    """The version of an item from `versioned`; 0 for an absent one."""
    if item is not None and "v" not in item:
        raise FormatError(f"the stored item {item[KEY].get('S')} has another format")
    return int(item["v"]["N"]) if item else 0


def at_version(version: int) -> Item | None:
    """As much of an item as a replacement's condition needs."""
    return {"v": {"N": str(version)}, "i": {"B": b""}} if version else None


def versioned(key: str, owner: bytes, before: int, data: bytes, expires_ms: int = 0, **more: int) -> Item:
    """An item that replaces the version `before` (`Connection.replace(by="v")`); `i` names its head.

    Versions begin by chance: after a user was forgotten none comes again.
    """
    item: dict[str, Mapping[str, Any]] = {KEY: {"S": key}, "i": {"B": owner}, "d": {"B": data}}
    numbers = {"v": (before or secrets.randbits(32)) + 1, **more}
    item |= {name: {"N": str(value)} for name, value in numbers.items()}
    return item | ({TTL: ttl(expires_ms)} if expires_ms else {})
