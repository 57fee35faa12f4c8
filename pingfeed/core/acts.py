"""What an accepted event means for a user's signals and for trending."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from pingfeed.core.events import Row, order_key
from pingfeed.core.signals import Act, ActKind, Profile
from pingfeed.core.trending import TRENDING_WEIGHTS, Engagement


def acts_of(row: Row) -> list[Act]:
    """The acts in an accepted row."""
    of = _ACTS.get(row["event_type"])
    return of(row) if of else []


def engagements_of(rows: Iterable[Row]) -> list[Engagement]:
    """The engagements in accepted rows; a view counts from half a watch."""
    return [
        Engagement(row["user_id"], row["ping_id"], kind, row.get("country"), row["received_ms"])
        for row in rows
        if (kind := row["event_type"]) in TRENDING_WEIGHTS and (kind != "view" or row["watch_time_ratio"] >= 0.5)
    ]


def _act(row: Row, kind: ActKind, target: str, profile: Profile | None = None) -> Act:
    timestamp_ms, received_ms, seq, event_id = order_key(row)
    return Act(row["user_id"], kind, target, received_ms, (), timestamp_ms, seq, event_id, profile)


def _of_creator(row: Row) -> list[Act]:
    return [_act(row, row["event_type"], row["creator_id"])]


def _of_ping(row: Row) -> list[Act]:
    return [_act(row, row["event_type"], row["ping_id"])]


def _of_any(row: Row) -> list[Act]:
    targets = (f"{name}:{row[column]}" for name, column in _TARGETS if row.get(column) is not None)
    return [_act(row, row["event_type"], target) for target in targets]


def _hidden(row: Row) -> list[Act]:
    return [_act(row, "hide", row["ping_id"])]


def _seen(row: Row) -> list[Act]:
    return [_act(row, "seen", row["ping_id"])]


def _engaged(row: Row) -> list[Act]:
    ping = row["ping_id"]
    return [_act(row, "seen", ping), _act(row, "like" if row["event_type"] == "like" else "engaged", ping)]


def _deleted(row: Row) -> list[Act]:
    return [Act("", "deleted", row["ping_id"], row["received_ms"])]


def _served(row: Row) -> list[Act]:
    return [Act(row["user_id"], "served", row["request_id"], row["received_ms"], tuple(row["served_pings"]))]


def _profile(row: Row) -> list[Act]:
    at_ms = order_key(row)[0]
    values: dict[str, tuple[int, str | list[str]]] = {
        name: (at_ms, row[name]) for name in ("country", "language", "interests") if name in row
    }
    return [_act(row, "profile", "", Profile(values))] if values else []


_TARGETS: Final = (("creator", "creator_id"), ("topic", "topic"), ("ping", "ping_id"))
_ACTS: Final[Mapping[str, Callable[[Row], list[Act]]]] = {
    **dict.fromkeys(("follow", "unfollow", "block", "unblock"), _of_creator),
    **dict.fromkeys(("mute", "unmute", "more", "less"), _of_any),
    **dict.fromkeys(("unhide", "unlike"), _of_ping),
    **dict.fromkeys(("hide", "report"), _hidden),
    "impression": _seen,
    **dict.fromkeys(("view", "like", "comment", "share"), _engaged),
    "ping_deleted": _deleted,
    "feed_served": _served,
    "user_updated": _profile,
}
