"""Every ranking feature once: its name, its group, its meaning, its place in the vector. Without numpy.

To add one: name it here, compute a column of that name in its group's SQL file, extend the golden row
(docs/adding-a-feature.md).
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

SQL_DIGEST: Final = "9db7fc8953ff19ed"
"""Fingerprint of `batch/sql/*.sql`, which the feed does not carry; a test keeps it current (`make digest`)."""

NO_VALUE: Final = 0xFFFFFFFF
"""Pads the facet values of a ping that has fewer than `FACET_WIDTH`; never a number that was assigned."""
FACET_WIDTH: Final = 8
"""How many values of one facet are kept for a ping, in the order in which its creator gave them."""
MAX_ATTRIBUTES: Final = 16

SOURCES: Final = (
    "followed",
    "engaged_creator",
    "collaborative",
    "topic",
    "trending",
    "evergreen",
    "fresh",
    "personalize",
)
"""Bit i of a candidate's source byte says that source i offered it; 0 means that no source was logged."""


@dataclass(frozen=True)
class Feature:
    """One column of the vector."""

    name: str
    meaning: str


_POINTS = "reward points for each impression, smoothed towards the day's average"
PING: Final = (
    Feature("ping_points_1h", f"the ping's {_POINTS}, 1 hour"),
    Feature("ping_points_1d", f"the ping's {_POINTS}, 1 day"),
    Feature("ping_points_7d", f"the ping's {_POINTS}, 7 days"),
    Feature("ping_points_30d", f"the ping's {_POINTS}, 30 days"),
    Feature("ping_watch_1d", "mean watch ratio of the ping's views, smoothed, 1 day"),
    Feature("ping_watch_30d", "mean watch ratio of the ping's views, smoothed, 30 days"),
    Feature("ping_like_rate_7d", "likes for each impression of the ping, smoothed, 7 days"),
    Feature("ping_share_rate_7d", "comments and shares for each impression of the ping, smoothed, 7 days"),
    Feature("ping_hide_rate_30d", "hides and reports for each impression of the ping, smoothed, 30 days"),
    Feature("ping_impressions_1h", "impressions of the ping, 1 hour"),
    Feature("ping_impressions_1d", "impressions of the ping, 1 day"),
    Feature("ping_impressions_30d", "impressions of the ping, 30 days"),
    Feature("ping_age_hours", "hours from the tick that learned of the ping to the snapshot's tick"),
    Feature("ping_duration_s", "length of the ping in seconds"),
    Feature("ping_evergreen", "1 if the ping was in the top tenth by engagement when the day began"),
    Feature("creator_points_7d", f"the creator's {_POINTS}, 7 days"),
    Feature("creator_points_30d", f"the creator's {_POINTS}, 30 days"),
    Feature("creator_watch_30d", "mean watch ratio of the creator's pings, smoothed, 30 days"),
    Feature("creator_hide_rate_30d", "hides and reports for each impression of the creator, smoothed, 30 days"),
    Feature("creator_follow_rate_30d", "follows for each impression of the creator, smoothed, 30 days"),
    Feature("creator_impressions_30d", "impressions of the creator's pings, 30 days"),
)
USER: Final = (
    Feature("user_points_30d", f"the user's {_POINTS}, 30 days"),
    Feature("user_watch_30d", "mean watch ratio of the user's views, smoothed, 30 days"),
    Feature("user_like_rate_30d", "likes for each impression of the user, smoothed, 30 days"),
    Feature("user_hide_rate_30d", "hides and reports for each impression of the user, smoothed, 30 days"),
    Feature("user_impressions_1d", "impressions that the user had, 1 day, at most 60,000"),
    Feature("user_impressions_30d", "impressions that the user had, 30 days, at most 60,000"),
)
CONTEXT: Final = (
    Feature("context_hour", "hour of the request, UTC, 0 to 23"),
    Feature("country_match", "1 if user and ping are of one country, 0 if not"),
    Feature("language_match", "1 if user and ping share the primary language, 0 if not"),
)
RETRIEVAL: Final = (
    *(Feature(f"source_{name}", f"1 if the source '{name}' offered the candidate") for name in SOURCES),
    Feature("retrieval_score", "share of the user's 300 best-scored pings that score no higher, in 254ths, as stored"),
)
REALTIME: Final = (
    Feature("trending_now", "the ping's decayed engagement as a share of the hottest ping's in the user's country"),
    Feature("just_followed", "1 if the user's recent acts say that they follow the creator"),
    Feature("session_creator", "engagements with the creator in this session"),
    Feature("session_topic", "engagements in this session with pings that share a topic"),
)


@dataclass(frozen=True)
class FeatureSet:
    """The vector of one installation: the features above plus those that its settings name.

    `facets` are the named lists of a ping that get smoothed rates and affinities, `attributes` its named numbers that
    become features as they are.
    """

    facets: tuple[str, ...] = ("topics",)
    attributes: tuple[str, ...] = ()

    @cached_property
    def ping(self) -> tuple[Feature, ...]:
        """Columns of the ping block (P), as a snapshot row holds them."""
        rates = (
            Feature(f"{f}_points_30d", f"mean over the ping's {f} of their {_POINTS}, 30 days") for f in self.facets
        )
        numbers = (Feature(f"attribute_{a}", f"the ping's attribute {a}") for a in self.attributes)
        return (*PING, *rates, *numbers)

    @property
    def user(self) -> tuple[Feature, ...]:
        """Columns of the user block (U), as a packet holds them."""
        return USER

    @cached_property
    def affinity(self) -> tuple[Feature, ...]:
        """The user x creator and user x facet columns, looked up in the user's strongest affinities."""
        columns = [Feature("user_creator_affinity", "how far the creator's pings beat the average for this user")]
        for facet in self.facets:
            columns.append(Feature(f"user_{facet}_affinity_max", f"the strongest known affinity to one of the {facet}"))
            columns.append(Feature(f"user_{facet}_affinity_mean", f"the mean known affinity to the {facet}"))
        return tuple(columns)

    @cached_property
    def all(self) -> tuple[Feature, ...]:
        """The whole vector (F), in order."""
        return (*self.ping, *self.user, *self.affinity, *CONTEXT, *RETRIEVAL, *REALTIME)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the whole vector, in order."""
        return tuple(feature.name for feature in self.all)

    @cached_property
    def digest(self) -> str:
        """16 hex digits that change with any feature, its order, or the SQL behind it."""
        text = "\n".join([SQL_DIGEST, ",".join(self.facets), *(f"{f.name}: {f.meaning}" for f in self.all)])
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def source_bits(names: Iterable[str]) -> int:
    """The source byte of a candidate that these sources offered."""
    return sum(1 << SOURCES.index(name) for name in set(names))
