"""What is hot, as forward-decay counters in Redis or Valkey.

    <namespace>:{trending}:hot:<country>:<epoch>      a sorted set, ping -> sum of `signals.forward_weight` with the
                                                      epoch's beginning as landmark; the country "" is all together
    <namespace>:{trending}:counted:<day>:<bucket>     a set of 64-bit integers: which (user, ping, event type) counted
                                                      on a day, as a hash, spread over `_BUCKETS` sets by another

With forward decay (Cormode et al., ICDE 2009) stored weights need no updates: their order is that of the decayed ones
at any time. The landmark is in the key: an epoch is `MAX_LANDMARK_AGE_MS` long, and the first write in a new one copies
the last one's weights, times 2 ** -200. A late engagement counts in both. A reader needs the newest epoch's sorted set
only.

One script checks whether an engagement is the day's first and adds it, so sending it again changes nothing. All keys
share the hash tag `{trending}`, as a script may touch one slot only.

Bounded: `MAX_PINGS` a country and epoch (and an eighth more between two trims), `MAX_COUNTED` hashes a day (a full
bucket drops a random one), stored as sorted integers of 8 bytes. Every key expires.
"""

import hashlib
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

from pingfeed.adapters._redis import Command, RedisClient, Script, chunks
from pingfeed.core.clock import DAY_MS
from pingfeed.core.trending import MAX_LANDMARK_AGE_MS, Engagement, decay_between, forward_weight

MAX_PINGS: Final = 4000
_BUCKETS: Final = 4096
_A_BUCKET: Final = 511
"""Up to 512 integers a set is stored as a sorted array (`set-max-intset-entries`), and it has one more for a moment."""
MAX_COUNTED: Final = _BUCKETS * _A_BUCKET
EPOCH_MS: Final = MAX_LANDMARK_AGE_MS
HOT_TTL_MS: Final = 3 * EPOCH_MS
COUNTED_TTL_MS: Final = 3 * DAY_MS
"""An engagement that is added again later than this would weigh less than 2 ** -48 of a fresh one."""
_OVERALL: Final = ""
_AT_ONCE: Final = 200

_ADD: Final = Script("""
-- KEYS: for each country, all together first: its last, this and next epoch; then the buckets.
-- ARGV: number of countries, the factor from an epoch to the next, TTL of weights, most pings, TTL of a bucket, most
-- hashes in one; then for each engagement: its bucket's number in KEYS, hash, country's number, ping, weight.
local countries, factor, ttl, most = tonumber(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])
local later = {}
for c = 1, countries do
  local last, this, next = KEYS[3 * c - 2], KEYS[3 * c - 1], KEYS[3 * c]
  if redis.call('EXISTS', this) == 0 and redis.call('EXISTS', last) == 1 then
    redis.call('ZUNIONSTORE', this, 1, last, 'WEIGHTS', factor)
  end
  later[c] = redis.call('EXISTS', next) == 1
end

local function add(c, ping, weight)
  redis.call('ZINCRBY', KEYS[3 * c - 1], weight, ping)
  if later[c] then
    redis.call('ZINCRBY', KEYS[3 * c], string.format('%.17g', tonumber(weight) * tonumber(factor)), ping)
  end
end

for i = 7, #ARGV, 5 do
  local bucket, country = KEYS[tonumber(ARGV[i])], tonumber(ARGV[i + 2])
  if redis.call('SADD', bucket, ARGV[i + 1]) == 1 then
    if redis.call('SCARD', bucket) > tonumber(ARGV[6]) then redis.call('SPOP', bucket) end
    redis.call('PEXPIRE', bucket, ARGV[5])
    add(1, ARGV[i + 3], ARGV[i + 4])
    if country ~= 1 then add(country, ARGV[i + 3], ARGV[i + 4]) end
  end
end

for c = 1, countries do
  for _, hot in ipairs({KEYS[3 * c - 1], KEYS[3 * c]}) do
    if redis.call('ZCARD', hot) > most + math.floor(most / 8) then
      redis.call('ZREMRANGEBYRANK', hot, 0, -most - 1)
    end
    redis.call('PEXPIRE', hot, ttl)
  end
end
""")


class RedisTrending:
    """`redis://host:port/database?namespace=name`."""

    def __init__(self, url: str) -> None:
        self._redis = RedisClient(url, [_ADD])

    async def add(self, engagements: Sequence[Engagement]) -> None:
        in_order = sorted(engagements, key=_epoch)
        commands = [
            self._count(epoch, some)
            for epoch, together in groupby(in_order, key=_epoch)
            for some in chunks(together, _AT_ONCE)
        ]
        await self._redis.run(*commands)

    async def top(self, country: str | None, limit: int, now_ms: int) -> list[tuple[str, float]]:
        # From the next one, where a clock is ahead of this one, to the oldest that does not expire yet.
        epochs = [now_ms // EPOCH_MS + ahead for ahead in (1, 0, -1, -2)]
        found = await self._redis.run(*(self._hottest(country or _OVERALL, epoch, limit) for epoch in epochs))
        for epoch, flat in zip(epochs, found, strict=True):
            if flat:
                return _ranked(flat, decay_between(epoch * EPOCH_MS, now_ms))
        return []

    async def check(self) -> None:
        await self._redis.check()

    async def close(self) -> None:
        await self._redis.close()

    def _hottest(self, country: str, epoch: int, limit: int) -> Command:
        return ("ZREVRANGE", self._hot(country, epoch), 0, limit - 1, "WITHSCORES")

    def _count(self, epoch: int, engagements: Sequence[Engagement]) -> Command:
        """The command that counts engagements of one epoch."""
        countries = list(dict.fromkeys([_OVERALL, *(e.country or _OVERALL for e in engagements)]))
        hot = [self._hot(country, epoch + away) for country in countries for away in (-1, 0, 1)]
        marks = [_mark(engagement) for engagement in engagements]
        buckets = list(dict.fromkeys(bucket for bucket, _ in marks))
        bucket_at = {bucket: len(hot) + number for number, bucket in enumerate(buckets, 1)}
        country_at = {country: number for number, country in enumerate(countries, 1)}
        args: list[str | int | float] = [len(countries), decay_between(0, EPOCH_MS), HOT_TTL_MS, MAX_PINGS]
        args += [COUNTED_TTL_MS, _A_BUCKET]
        for engagement, (bucket, number) in zip(engagements, marks, strict=True):
            weight = forward_weight(engagement.event_type, engagement.at_ms, epoch * EPOCH_MS)
            country = country_at[engagement.country or _OVERALL]
            args += [bucket_at[bucket], number, country, engagement.ping_id, weight]
        return _ADD.on([*hot, *(self._redis.key(f"{{trending}}:counted:{bucket}") for bucket in buckets)], *args)

    def _hot(self, country: str, epoch: int) -> str:
        return self._redis.key(f"{{trending}}:hot:{country}:{epoch}")


def _epoch(engagement: Engagement) -> int:
    return engagement.at_ms // EPOCH_MS


def _mark(engagement: Engagement) -> tuple[str, int]:
    """The bucket and the number by which the day knows the user's engagement with the ping."""
    name = f"{engagement.user_id} {engagement.ping_id} {engagement.event_type}"
    digest = hashlib.blake2b(name.encode(), digest_size=10).digest()
    bucket = int.from_bytes(digest[8:]) % _BUCKETS
    return f"{engagement.at_ms // DAY_MS}:{bucket}", int.from_bytes(digest[:8], signed=True)


def _ranked(flat: Sequence[Any], factor: float) -> list[tuple[str, float]]:
    """(ping, weight now) of an answer that has them one after the other; equal weights in the order of their ids."""
    pairs = [(ping.decode(), float(weight) * factor) for ping, weight in zip(flat[::2], flat[1::2], strict=True)]
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
