"""Items in DynamoDB: their keys, what they weigh, and the packet's.

Every table has one key, the string `k`. Its first letters say what the item is, so that one table may hold them all:

    p/<user id>    a packet (here)
    s/<user id>    a user's signals (`pingfeed/adapters/user_signals_dynamodb.py`)
    d/             which pings were deleted lately, and
    d/<name>       a part of that list (`pingfeed/adapters/_dynamodb/deleted.py`)

The packet's item: `p` (binary) the packet, `e` (number) the instant it expires, epoch ms, `t` (number) that instant
in seconds, rounded up, for DynamoDB's TTL, which removes items up to days later: readers go by `e`.

Names are one letter long: they are stored, and billed, with every item. An item is written as on the wire, for
instance {"k": {"S": "p/user-0042"}, "t": {"N": "1798381500"}}.
"""

from collections.abc import Mapping
from typing import Any, Final

from pingfeed.core.errors import FormatError

Item = Mapping[str, Mapping[str, Any]]

KEY: Final = "k"
TTL: Final = "t"
MAX_ITEM_BYTES: Final = 400 * 1024
_WRITE_UNIT_BYTES: Final = 1024
_ANY_MS: Final = 1_795_355_100_000


def item_bytes(item: Item) -> int:
    """The size by which DynamoDB bills and limits an item: names and values, for the types that are used here."""
    return sum(len(name.encode()) + _value_bytes(value) for name, value in item.items())


def write_units(item: Item) -> int:
    """What putting the item costs: one unit for each KiB begun (of the item before, if that was larger)."""
    return max(1, -(-item_bytes(item) // _WRITE_UNIT_BYTES))


def _value_bytes(value: Mapping[str, Any]) -> int:
    ((kind, content),) = value.items()
    match kind:
        case "S":
            return len(content.encode())
        case "B":
            return len(content)
        case "N":
            # A byte for two digits and one for the exponent. Trailing zeros would be free; they are not counted on.
            return (len(content) + 1) // 2 + 1
        case _:
            raise ValueError(f"no item here has a value of type {kind}")


def ttl(expires_ms: int) -> Mapping[str, str]:
    """The value of the TTL attribute: never earlier than the exact instant."""
    return {"N": str(-(-expires_ms // 1000))}


def packet_key(user_id: str) -> str:
    """The key of a user's packet."""
    return f"p/{user_id}"


def packet_item(user_id: str, packet: bytes, expires_ms: int) -> Item:
    """A packet as it is stored."""
    return {
        KEY: {"S": packet_key(user_id)},
        "p": {"B": packet},
        "e": {"N": str(expires_ms)},
        TTL: ttl(expires_ms),
    }


def packet_write_units(user_id: str, packet: bytes) -> int:
    """What storing the packet costs; every instant of this age weighs the same."""
    return write_units(packet_item(user_id, packet, _ANY_MS))


def packet_of(item: Item | None, now_ms: int) -> bytes | None:
    """The packet in an item, None where it has expired; FormatError if the item is of a shape not known here."""
    if item is None:
        return None
    try:
        packet, expires_ms = item["p"]["B"], int(item["e"]["N"])
    except (KeyError, ValueError) as error:
        raise FormatError(f"the stored packet {item[KEY].get('S')} is of another format") from error
    return bytes(packet) if expires_ms > now_ms else None
