"""What a person sees when the demo serves: what to open, and three lines to try with ids of this world."""

import msgspec
import numpy as np

from simulator.world import World, creator_id, ping_id, user_id


def lines(world: World, ingest: str, feed: str, now_ms: int) -> list[str]:
    """The text; `ingest` and `feed` are the services' addresses.

    The follow and the hide are of the pings that the user would enjoy most, which a good feed is about to show.
    """
    user = int(world.users.feeds_per_day.argmax())
    who = user_id(user)
    liked, hidden = _favourites(world, user, now_ms)
    follow = {"event_type": "follow", "user_id": who, "creator_id": creator_id(int(world.pings.creator[liked]))}
    hide = {"event_type": "hide", "user_id": who, "ping_id": ping_id(hidden)}
    ask = f"curl -s '{feed}/get-feed?user_id={who}'"
    return [
        "",
        f"Open   {feed}/          a feed that reacts: be one of {len(world.users)} people, follow, hide, like",
        f"       {feed}/docs      its API: try GET /get-feed",
        f"       {ingest}/docs      events in",
        "",
        f"Try    {who}, the most active of {len(world.users)} users: their feed, a follow, a hide and the feed again",
        ask,
        _post(ingest, follow),
        f"{_post(ingest, hide)} && {ask}",
        "",
    ]


def _favourites(world: World, user: int, now_ms: int) -> tuple[int, int]:
    """The numbers of a user's best ping and of the best by another creator."""
    affinity = world.true_affinity(user, np.arange(len(world.pings)), now_ms)
    best = int(affinity.argmax())
    elsewhere = world.pings.creator != world.pings.creator[best]
    return best, int(np.where(elsewhere, affinity, -1).argmax())


def _post(ingest: str, event: dict[str, str]) -> str:
    body = msgspec.json.encode(event).decode()
    return f"curl -s -H 'content-type: application/json' -d '{body}' {ingest}/track-event"
