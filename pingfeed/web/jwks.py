"""The public keys that tokens are checked with: read from a JSON Web Key Set (RFC 7517), read anew now and then.

A key is found by its id and an algorithm that the settings allow and that fits its type: so a token can choose neither
an algorithm nor a key of another kind. Keys without an id, for encryption, private or too short are passed over.

The set is read anew when it is `MAX_AGE_S` old, and at once for an id that is not in it (a new key was put in), but
never before `RETRY_S` have passed since the last attempt, whatever flood of unknown ids comes, and never twice at a
time. The old set is used until a new one has been read.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import jwt
import msgspec
from prometheus_client import Counter

from pingfeed.core.errors import FormatError, PingfeedError, Unavailable

log = logging.getLogger(__name__)

RETRY_S: Final = 10.0
MAX_AGE_S: Final = 300.0
PATIENCE_S: Final = 8.0
"""How long a request waits for a set that is being read."""
MAX_KEYS: Final = 100

Keys = Mapping[tuple[str, str], jwt.PyJWK]
"""Keys by id and algorithm."""

_CURVES: Final = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}


class _Set(msgspec.Struct):
    keys: list[dict[str, Any]]


def parse(body: bytes, algorithms: Sequence[str]) -> Keys:
    """The usable keys of a set; FormatError, the end of a sentence, if it is no set or has none."""
    try:
        found = msgspec.json.decode(body, type=_Set).keys[:MAX_KEYS]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError("is no JSON Web Key Set") from error
    pairs = ((key, name) for key in found for name in algorithms if _fits(key, name))
    usable = {(key["kid"], name): made for key, name in pairs if (made := _key(key, name)) is not None}
    if not usable:
        raise FormatError(f"holds no public key with an id (kid) for {' or '.join(algorithms)}")
    return usable


def _fits(key: Mapping[str, Any], algorithm: str) -> bool:
    kind = ("EC", _CURVES[algorithm]) if algorithm in _CURVES else ("RSA", None)
    return (
        isinstance(key.get("kid"), str)
        and (key.get("kty"), key.get("crv")) == kind
        and key.get("alg") in (None, algorithm)
        and key.get("use") in (None, "sig")
        and "d" not in key
    )


def _key(key: dict[str, Any], algorithm: str) -> jwt.PyJWK | None:
    try:
        made = jwt.PyJWK(key, algorithm)
    except jwt.PyJWTError:
        return None
    return None if made.Algorithm.check_key_length(made.key) else made


class PublishedKeys:
    """The keys at one address. `read` blocks and runs in a thread; `on_change` hears of every other set."""

    def __init__(
        self,
        read: Callable[[], bytes],
        algorithms: Sequence[str],
        *,
        monotonic: Callable[[], float],
        reads: Counter,
        on_change: Callable[[], None],
    ) -> None:
        self._read = read
        self._algorithms = algorithms
        self._monotonic = monotonic
        self._reads = reads
        self._on_change = on_change
        self._body = b""
        self._keys: Keys | None = None
        self._ids: frozenset[str] = frozenset()
        self._tried_s = self._read_s = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    def read_now(self) -> None:
        """Read the set, blocking; Unavailable or FormatError if that fails."""
        self._tried_s = self._monotonic()
        self._take(self._read())

    async def find(self, key_id: str, algorithm: str) -> jwt.PyJWK | None:
        """The key of this id for this algorithm; Unavailable while no set could be read at all."""
        age_s = self._monotonic() - self._read_s
        if key_id not in self._ids or age_s >= 2 * MAX_AGE_S:
            await self._renewed()  # A key may have been taken out while nobody asked.
        elif age_s >= MAX_AGE_S:
            self._renewal()
        if self._keys is None:
            raise Unavailable("the keys that tokens are signed with cannot be read now", retry_after_s=int(RETRY_S))
        return self._keys.get((key_id, algorithm))

    async def _renewed(self) -> None:
        reading = self._renewal()
        if reading is not None:
            await asyncio.wait({reading}, timeout=PATIENCE_S)

    def _renewal(self) -> "asyncio.Task[None] | None":
        """The reading that goes on, begun here unless the last attempt was a moment ago."""
        now_s = self._monotonic()
        if self._reading is None and now_s - self._tried_s >= RETRY_S:
            self._tried_s = now_s
            self._reading = asyncio.create_task(self._renew())
        return self._reading

    async def _renew(self) -> None:
        try:
            self._take(await asyncio.to_thread(self._read))
        except PingfeedError as error:
            self._reads.labels("failed").inc()
            log.warning("the keys that tokens are signed with were not read anew", extra={"reason": error.message})
        finally:
            self._reading = None

    def _take(self, body: bytes) -> None:
        if body != self._body:
            self._keys = parse(body, self._algorithms)
            self._ids = frozenset(key_id for key_id, _ in self._keys)
            self._body = body
            self._on_change()
        self._read_s = self._monotonic()
        self._reads.labels("ok").inc()
