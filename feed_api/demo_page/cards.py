"""What a card shows beyond the API: topics, country, age and duration of a ping, from the live snapshot."""

import logging
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from feed_api.artifact_loader import ArtifactLoader
from feed_api.demo_page.people import PeopleFile
from pingfeed.core.errors import NotFound, PingfeedError
from pingfeed.core.features import NO_VALUE, FeatureSet, language_name, place_name
from pingfeed.core.integrity import UNREADABLE
from pingfeed.core.ranker import snapshot_key
from pingfeed.core.snapshot import Snapshot
from pingfeed.ports import Artifacts

log = logging.getLogger(__name__)

_TOPICS: Final = "topics"
_FILE: Final = "facets.json"
_Names = dict[str, dict[str, str]]


class Card(msgspec.Struct, frozen=True):
    """One ping as the page shows it; unknown values are null."""

    ping_id: str
    creator_id: str
    title: str | None
    topics: list[str]
    country: str | None
    language: str | None
    created_ms: int
    """The tick at which the system learned of it."""
    duration_s: float | None
    impressions: int
    """In the 30 days before the snapshot."""


class Cards:
    """Describes pings of the live snapshot."""

    def __init__(
        self, loader: ArtifactLoader, artifacts: Artifacts, people: PeopleFile, features: FeatureSet, tick_ms: int
    ) -> None:
        self._loader, self._artifacts, self._people, self._tick_ms = loader, artifacts, people, tick_ms
        self._duration_at = [feature.name for feature in features.ping].index("ping_duration_s")
        self._names: _Names = {}
        self._named: Snapshot | None = None

    async def of(self, ping_ids: Sequence[str]) -> list[Card]:
        """A card for each of these pings that is in the live snapshot."""
        snapshot = self._loader.live.snapshot
        names = await self._topic_names(snapshot)
        return [
            self._card(snapshot, int(row), ping_id, names)
            for ping_id, row in zip(ping_ids, snapshot.rows_of_pings(ping_ids).tolist(), strict=True)
            if row >= 0
        ]

    def _card(self, snapshot: Snapshot, row: int, ping_id: str, names: dict[str, str]) -> Card:
        topics = _topics(snapshot, row, names)
        duration = float(snapshot.values[row, self._duration_at])
        return Card(
            ping_id=ping_id,
            creator_id=snapshot.creator_id(row),
            title=self._people.read().title(ping_id, topics),
            topics=topics,
            country=place_name(int(snapshot.country[row])),
            language=language_name(int(snapshot.language[row])),
            created_ms=int(snapshot.created_tick[row]) * self._tick_ms,
            duration_s=None if np.isnan(duration) else duration,
            impressions=int(snapshot.impressions[row]),
        )

    async def _topic_names(self, snapshot: Snapshot) -> dict[str, str]:
        """Topics by number, as the batch side published them beside the snapshot; empty if it did not."""
        if snapshot is not self._named:
            try:
                self._names = msgspec.json.decode(await self._published_names(snapshot), type=_Names)
            except (PingfeedError, *UNREADABLE) as error:
                log.warning("topic names of tick %d are not available: %s", snapshot.tick, error)
                self._names = {}
            self._named = snapshot
        return self._names.get(_TOPICS, {})

    async def _published_names(self, snapshot: Snapshot) -> bytes:
        """The names in this snapshot's folder, whose name contains the digest during a roll-out."""
        try:
            return await self._artifacts.get(snapshot_key(f"{snapshot.tick}-{snapshot.digest}", _FILE))
        except NotFound:
            return await self._artifacts.get(snapshot_key(snapshot.tick, _FILE))


def _topics(snapshot: Snapshot, row: int, names: dict[str, str]) -> list[str]:
    if _TOPICS not in snapshot.facets:
        return []
    numbers = snapshot.facet_values[row, snapshot.facets.index(_TOPICS)].tolist()
    return [names[str(number)] for number in numbers if number != NO_VALUE and str(number) in names]
