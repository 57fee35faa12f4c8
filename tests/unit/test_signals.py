"""What a user's state makes of acts: idempotent, bounded, the same for late and repeated arrivals."""

import itertools
import random
from collections.abc import Callable, Collection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pingfeed.core import signals
from pingfeed.core.acts import acts_of, engagements_of
from pingfeed.core.clock import HOUR_MS
from pingfeed.core.events import Row
from pingfeed.core.signals import (
    SEEN_MS,
    SERVED_MS,
    SESSION_MS,
    STATE_TTL_MS,
    Act,
    ActKind,
    Profile,
    Session,
    seen_key,
)
from pingfeed.core.trending import MAX_LANDMARK_AGE_MS, decay_between, forward_weight
from tests.unit import whole_state
from tests.unit.whole_state import WholeState

NOW_MS = 1_800_000_000_000
KINDS: list[ActKind] = [
    *("follow", "unfollow", "block", "unblock", "hide", "unhide", "mute", "unmute"),
    *("seen", "engaged", "like", "unlike", "more", "less", "served"),
]


def _state(*acts: Act) -> WholeState:
    state = WholeState()
    for act in acts:
        state.apply(act)
    return state


@st.composite
def _histories(draw: st.DrawFn) -> list[Act]:
    """Acts at distinct times: what happened in the same millisecond has no order to keep."""
    times = draw(st.lists(st.integers(0, 3 * SERVED_MS), unique=True, max_size=25))
    return [
        Act("ann", draw(st.sampled_from(KINDS)), draw(st.sampled_from(["a", "b", "c"])), NOW_MS + t, ("p", "q"))
        for t in times
    ]


def _once_each(acts: list[Act]) -> list[Act]:
    """A request is served once: of several acts with its id only one is real."""
    served = {act.target: act for act in acts if act.kind == "served"}
    return [act for act in acts if act.kind != "served" or served[act.target] is act]


@given(_histories(), st.randoms(use_true_random=False))
def test_the_state_does_not_depend_on_the_order_of_arrival(acts: list[Act], shuffler: random.Random) -> None:
    acts = _once_each(acts)
    shuffled = list(acts)
    shuffler.shuffle(shuffled)
    assert _state(*shuffled) == _state(*acts)


@given(_histories(), st.data())
def test_applying_twice_equals_once(acts: list[Act], data: st.DataObject) -> None:
    acts = _once_each(acts)
    again = data.draw(st.lists(st.sampled_from(acts), max_size=10)) if acts else []
    assert _state(*acts, *again) == _state(*acts)


@given(_histories())
def test_the_encoded_state_comes_back(acts: list[Act]) -> None:
    state = _state(*acts)
    assert WholeState.decode(state.encode()) == state


def test_no_bytes_are_an_empty_state() -> None:
    assert WholeState.decode(None) == WholeState()


PARTS: list[tuple[ActKind, int, Callable[[WholeState], Collection[object]]]] = [
    ("follow", whole_state.LIMITS["follow"], lambda state: state.relations["follow"]),
    ("block", whole_state.LIMITS["block"], lambda state: state.relations["block"]),
    ("mute", whole_state.LIMITS["mute"], lambda state: state.relations["mute"]),
    ("seen", signals.MAX_SEEN, lambda state: state.session.seen),
    ("engaged", signals.MAX_ENGAGED, lambda state: [entry.ping for entry in state.session.engaged]),
    ("less", signals.MAX_ENGAGED, lambda state: state.session.steered),
    ("unlike", signals.MAX_ENGAGED, lambda state: state.session.unlikes),
    ("served", signals.MAX_SERVED, lambda state: [served.request_id for served in state.session.served]),
]


@pytest.mark.parametrize(("kind", "limit", "part"), PARTS)
def test_every_part_is_bounded_and_keeps_the_newest(
    kind: ActKind, limit: int, part: Callable[[WholeState], Collection[object]]
) -> None:
    state = WholeState()
    for n in range(3 * limit):
        state.apply(Act("ann", kind, f"t{n}", NOW_MS + n))
        assert len(part(state)) <= limit
    newest = [f"t{n}" for n in range(3 * limit - limit * 7 // 8, 3 * limit)]
    assert set(map(seen_key, newest) if kind == "seen" else newest) <= set(part(state))


def test_an_unfollow_ends_a_follow_whichever_arrives_first() -> None:
    follow, unfollow = Act("ann", "follow", "c", NOW_MS), Act("ann", "unfollow", "c", NOW_MS + 1)
    for order in itertools.permutations([follow, unfollow]):
        assert _state(*order).at(NOW_MS).following() == frozenset()
    assert _state(unfollow, follow, Act("ann", "follow", "c", NOW_MS + 2)).at(NOW_MS).following() == {"c"}


def test_a_session_ends_half_an_hour_after_an_engagement() -> None:
    session = _state(Act("ann", "engaged", "p", NOW_MS), Act("ann", "like", "q", NOW_MS + 1)).session
    assert session.interactions(NOW_MS + SESSION_MS - 1) == ["p", "q"]
    assert session.interactions(NOW_MS + SESSION_MS) == ["q"]


def test_an_unlike_takes_back_the_like_and_no_other_engagement_whichever_arrives_first() -> None:
    kinds: list[ActKind] = ["engaged", "like", "unlike"]
    view, like, unlike = (Act("ann", kind, "p", NOW_MS + n) for n, kind in enumerate(kinds))
    for order in itertools.permutations([view, like, unlike]):
        assert _state(*order).session.interactions(NOW_MS) == ["p"]
    again = _state(view, unlike, Act("ann", "like", "p", NOW_MS + 9), like)
    assert again.session.interactions(NOW_MS) == ["p", "p"]


def test_more_and_less_hold_for_the_session_and_the_later_one_counts() -> None:
    more, less = Act("ann", "more", "topic:a", NOW_MS), Act("ann", "less", "topic:a", NOW_MS + 1)
    for order in itertools.permutations([more, less]):
        assert _state(*order).session.steering(NOW_MS) == {"topic:a": False}
    assert _state(more).session.steering(NOW_MS + SESSION_MS) == {}


def test_a_seen_ping_counts_as_seen_for_thirty_days() -> None:
    session = _state(Act("ann", "seen", "p", NOW_MS)).session
    assert session.has_seen("p", NOW_MS + SEEN_MS - 1)
    assert not session.has_seen("p", NOW_MS + SEEN_MS)


def test_relations_and_the_profile_outlive_the_session() -> None:
    profile = Profile({"country": (NOW_MS, "DE")})
    acts = Act("ann", "block", "c", NOW_MS), Act("ann", "profile", "", NOW_MS, profile=profile)
    late = _state(*acts, Act("ann", "seen", "p", NOW_MS)).at(NOW_MS + STATE_TTL_MS)
    assert (late.blocks, late.profile.get("country"), late.session) == ({"c"}, "DE", Session())


SAID: list[dict[str, Any]] = [
    {"country": "DE"},
    {"language": "de", "interests": ["art"]},
    {"country": "FR"},
    {"interests": []},
]


@given(st.permutations(range(len(SAID))))
def test_a_profile_keeps_the_latest_value_of_each_field_in_any_order(order: list[int]) -> None:
    profile = Profile()
    for at in order:
        profile.merge(Profile({name: (NOW_MS + at, value) for name, value in SAID[at].items()}))
    assert (profile.get("country"), profile.get("language"), profile.interests) == ("FR", "de", [])


def test_served_responses_are_kept_for_an_hour_before_the_newest() -> None:
    state = _state(Act("ann", "served", "r2", NOW_MS + SERVED_MS), Act("ann", "served", "r1", NOW_MS))
    assert [served.request_id for served in state.session.served] == ["r2"]
    state.apply(Act("ann", "served", "r3", NOW_MS + 1, ("p",)))
    assert [served.request_id for served in state.session.served] == ["r3", "r2"]


def test_a_deletion_is_no_users_act() -> None:
    with pytest.raises(ValueError, match="deleted"):
        WholeState().apply(Act("", "deleted", "p", NOW_MS))


def _row(kind: str, **values: Any) -> Row:
    common = {"user_id": "ann", "ping_id": "p", "event_id": "e", "received_ms": NOW_MS, "timestamp_ms": 5}
    return {"event_type": kind, **common, **values}


@pytest.mark.parametrize(
    ("row", "acts"),
    [
        (_row("impression"), ["seen p"]),
        (_row("view", watch_time_ratio=0.1), ["seen p", "engaged p"]),
        (_row("like"), ["seen p", "like p"]),
        (_row("unlike"), ["unlike p"]),
        (_row("unhide"), ["unhide p"]),
        (_row("unblock", creator_id="c"), ["unblock c"]),
        (_row("less"), ["less ping:p"]),
        ({**_row("mute", topic="t t"), "ping_id": None}, ["mute topic:t t"]),
        (_row("user_updated", country="DE"), ["profile "]),
        (_row("comment"), ["seen p", "engaged p"]),
        (_row("share"), ["seen p", "engaged p"]),
        (_row("hide"), ["hide p"]),
        (_row("report"), ["hide p"]),
        (_row("follow", creator_id="c"), ["follow c"]),
        (_row("unfollow", creator_id="c"), ["unfollow c"]),
        (_row("block", creator_id="c"), ["block c"]),
        (_row("ping_created", creator_id="c"), []),
        (_row("user_updated"), []),
    ],
)
def test_each_event_has_its_acts_at_the_time_of_arrival(row: Row, acts: list[str]) -> None:
    found = acts_of(row)
    assert [f"{act.kind} {act.target}" for act in found] == acts
    assert all(act.user_id == "ann" and act.at_ms == NOW_MS for act in found)


def test_a_deletion_and_a_response_are_acts_too() -> None:
    assert acts_of(_row("ping_deleted")) == [Act("", "deleted", "p", NOW_MS)]
    served = _row("feed_served", request_id="r", served_pings=["p", "q"])
    assert acts_of(served) == [Act("ann", "served", "r", NOW_MS, ("p", "q"))]


def test_a_view_trends_from_half_a_watch() -> None:
    rows = [_row("view", watch_time_ratio=ratio, ping_id=str(ratio)) for ratio in (0.49, 0.5, 3)]
    assert [e.ping_id for e in engagements_of([*rows, _row("impression"), _row("hide")])] == ["0.5", "3"]


@given(
    st.integers(0, MAX_LANDMARK_AGE_MS),
    st.integers(0, 48 * HOUR_MS),
    st.sampled_from(["view", "like", "share"]),
)
def test_forward_decay_is_backward_decay(at: int, age: int, kind: str) -> None:
    landmark, now = NOW_MS, NOW_MS + at + age
    stored = forward_weight(kind, landmark + at, landmark) * decay_between(landmark, now)
    assert stored == pytest.approx(forward_weight(kind, now - age, now), rel=1e-9)
