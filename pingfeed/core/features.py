"""The feature vectors: `assemble` puts the columns of `pingfeed/core/feature_set.py` together.

Training, candidate pre-scoring and serving all call it; they differ only in where its blocks come from (the as-of SQL
in `batch/sql/`, or a snapshot and a packet, which that same SQL filled). A block's columns have the order in which
`FeatureSet` lists them. Whatever is unknown is NaN, in training and serving alike.
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pingfeed.core.feature_set import CONTEXT as CONTEXT
from pingfeed.core.feature_set import FACET_WIDTH as FACET_WIDTH
from pingfeed.core.feature_set import NO_VALUE as NO_VALUE
from pingfeed.core.feature_set import PING as PING
from pingfeed.core.feature_set import REALTIME as REALTIME
from pingfeed.core.feature_set import RETRIEVAL as RETRIEVAL
from pingfeed.core.feature_set import SOURCES as SOURCES
from pingfeed.core.feature_set import SQL_DIGEST as SQL_DIGEST
from pingfeed.core.feature_set import USER as USER
from pingfeed.core.feature_set import Feature as Feature
from pingfeed.core.feature_set import FeatureSet as FeatureSet
from pingfeed.core.feature_set import source_bits as source_bits

Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]
UInt32 = NDArray[np.uint32]
UInt64 = NDArray[np.uint64]


@dataclass(frozen=True)
class PingBlock:
    """n pings as of a tick."""

    values: Float32  # (n, P)
    creator: UInt32  # (n,) creator numbers
    facets: UInt32  # (n, facets, FACET_WIDTH) value numbers, padded with NO_VALUE
    country: UInt32  # (n,) `place_code`, 0 where unknown
    language: UInt32  # (n,) `language_code`, 0 where unknown


@dataclass(frozen=True)
class UserBlock:
    """m users as their packets hold them (float16 rounding included), and which user each of n rows belongs to.

    Affinities are sorted by key, `affinity_keys(user row, number)`.
    """

    values: Float32  # (m, U)
    country: UInt32  # (m,)
    language: UInt32  # (m,)
    creator_keys: UInt64
    creator_values: Float32
    facet_keys: UInt64
    facet_values: Float32
    row: NDArray[np.intp]  # (n,) in 0..m-1
    places: tuple[UInt32, UInt32] | None = None  # (n,) country and language of each row, where a request had others


def assemble(
    features: FeatureSet,
    pings: PingBlock,
    users: UserBlock,
    hour: Float32,
    sources: UInt8,
    retrieval_score: Float32,
    realtime: Float32,
) -> Float32:
    """The vectors of n (user, ping) rows, float32 (n, F).

    `hour`, `sources` and `retrieval_score` (`retrieval_values`) are (n,); `realtime` is (n, len(REALTIME)); NaN where
    unknown.
    """
    n = len(pings.creator)
    out = np.empty((n, len(features.all)), np.float32)
    at = 0
    for block in (
        pings.values,
        users.values[users.row],
        _affinities(pings, users),
        _context(pings, users, hour),
        _retrieval(sources, retrieval_score),
        realtime,
    ):
        out[:, at : at + block.shape[1]] = block
        at += block.shape[1]
    assert at == out.shape[1], "the blocks do not add up to the feature set"
    return out


def affinity_keys(user_row: NDArray[np.intp], number: UInt32) -> UInt64:
    """The sort key of an affinity: the user's row above, the creator's or facet value's number below."""
    return user_row.astype(np.uint64) << np.uint64(32) | number.astype(np.uint64)


def _look_up(keys: UInt64, values: Float32, wanted: UInt64) -> Float32:
    """values[keys == wanted], NaN where there is none; `keys` sorted, any shape of `wanted`."""
    if not len(keys):
        return np.full(wanted.shape, np.nan, np.float32)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], np.float32(np.nan)).astype(np.float32)


def _affinities(pings: PingBlock, users: UserBlock) -> Float32:
    """(n, 1 + 2 * facets): creator; then each facet's strongest and mean among the values that are known."""
    columns = [_look_up(users.creator_keys, users.creator_values, affinity_keys(users.row, pings.creator))]
    for f in range(pings.facets.shape[1]):
        keys = affinity_keys(users.row[:, None], pings.facets[:, f, :])
        found = _look_up(users.facet_keys, users.facet_values, keys)
        known = ~np.isnan(found)
        count = known.sum(axis=1)
        some = count > 0
        strongest = np.where(known, found, -np.inf).max(axis=1, initial=-np.inf)
        # Summed one value after the other in float32: the order is fixed, so every caller gets the same bits.
        addends = np.where(known, found, np.float32(0))
        total = np.zeros(len(found), np.float32)
        for k in range(found.shape[1]):
            total += addends[:, k]
        columns.append(np.where(some, strongest, np.nan).astype(np.float32))
        columns.append(np.where(some, total / np.maximum(count, 1).astype(np.float32), np.nan).astype(np.float32))
    return np.stack(columns, axis=1)


def _context(pings: PingBlock, users: UserBlock, hour: Float32) -> Float32:
    country, language = users.places or (users.country[users.row], users.language[users.row])
    return np.stack([hour, _match(country, pings.country), _match(language, pings.language)], axis=1)


def _match(left: UInt32, right: UInt32) -> Float32:
    known = (left != 0) & (right != 0)
    return np.where(known, left == right, np.nan).astype(np.float32)


_BITS = np.arange(len(SOURCES), dtype=np.uint8)


def _retrieval(sources: UInt8, score: Float32) -> Float32:
    bits = (sources[:, None] >> _BITS & 1).astype(np.float32)
    bits[sources == 0] = np.nan
    return np.concatenate([bits, score[:, None]], axis=1)


NO_SCORE = 255
_QUANTILES = np.append(np.arange(NO_SCORE, dtype=np.float32) / np.float32(NO_SCORE - 1), np.float32(np.nan))


def retrieval_quantiles(scores: Float32, among: Float32) -> UInt8:
    """(n,) the share of the scores `among` that is not above each score, in 254ths; NO_SCORE for NaN.

    A quantile means the same whatever the method of retrieval; packets store it in this form.
    """
    share = np.searchsorted(np.sort(among), scores, side="right") / max(len(among), 1)
    return np.where(np.isnan(scores), NO_SCORE, np.rint((NO_SCORE - 1) * share)).astype(np.uint8)


def retrieval_values(stored: UInt8) -> Float32:
    """The feature's values: stored quantiles as numbers from 0 to 1, NaN for NO_SCORE."""
    return _QUANTILES[stored]


_COUNTRY = re.compile("[A-Z]{2}")
_PRIMARY = re.compile("[A-Za-z]{2,3}")


def place_code(country: str | None) -> int:
    """`US` as a number that fits 16 bits, 0 for none or what is no such code."""
    return int.from_bytes(country.encode("ascii"), "big") if country and _COUNTRY.fullmatch(country) else 0


def language_code(language: str | None) -> int:
    """The primary subtag (`pt` of `pt-BR`) as a number that fits 32 bits, 0 for none or what is no language."""
    primary = language.split("-")[0] if language else ""
    return int.from_bytes(primary.lower().encode("ascii"), "big") if _PRIMARY.fullmatch(primary) else 0


def language_name(code: int) -> str | None:
    """Inverse of `language_code`."""
    return code.to_bytes(4, "big").lstrip(b"\0").decode("ascii") or None


def place_name(code: int) -> str | None:
    """Inverse of `place_code`."""
    return code.to_bytes(2, "big").decode("ascii") if code else None
