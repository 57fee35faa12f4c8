"""What a user's state makes of acts: idempotent, bounded, the same for late and repeated arrivals."""

import itertools
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pingfeed.core import signals
from pingfeed.core.acts import acts_of, engagements_of
from pingfeed.core.clock import HOUR_MS
from pingfeed.core.events import Row
from pingfeed.core.signals import SERVED_MS, SESSION_MS, Act, ActKind, UserState
from pingfeed.core.trending import decay_between

NOW_MS = 1_800_000_000_000
KINDS: list[ActKind] = ["follow", "unfollow", "block", "hide", "seen", "engaged", "served"]


def _state(*acts: Act) -> UserState:
    state = UserState()
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
    assert UserState.decode(state.encode()) == state


def test_no_bytes_are_an_empty_state() -> None:
    assert UserState.decode(None) == UserState()


PARTS: dict[ActKind, str] = {"follow": "follows", "block": "blocks", "hide": "hides"}
PARTS |= {"seen": "seen", "engaged": "engaged", "served": "served"}


@pytest.mark.parametrize(("kind", "part"), PARTS.items())
def test_every_part_is_bounded_and_keeps_the_newest(kind: ActKind, part: str) -> None:
    limit = getattr(signals, f"MAX_{part.upper()}")
    state = UserState()
    for n in range(3 * limit):
        state.apply(Act("ann", kind, f"t{n}", NOW_MS + n))
        assert len(getattr(state, part)) <= limit
    held = {getattr(entry, "request_id", entry) for entry in getattr(state, part)}
    newest = {f"t{n}" for n in range(3 * limit - limit * 7 // 8, 3 * limit)}
    assert newest <= {entry[1] if isinstance(entry, tuple) else entry for entry in held}


def test_an_unfollow_ends_a_follow_whichever_arrives_first() -> None:
    follow, unfollow = Act("ann", "follow", "c", NOW_MS), Act("ann", "unfollow", "c", NOW_MS + 1)
    for order in itertools.permutations([follow, unfollow]):
        assert _state(*order).following() == frozenset()
    assert _state(unfollow, follow, Act("ann", "follow", "c", NOW_MS + 2)).following() == {"c"}


def test_a_session_ends_half_an_hour_after_an_engagement() -> None:
    state = _state(Act("ann", "engaged", "p", NOW_MS), Act("ann", "engaged", "q", NOW_MS + 1))
    assert state.session(NOW_MS + SESSION_MS - 1) == ["p", "q"]
    assert state.session(NOW_MS + SESSION_MS) == ["q"]


def test_served_responses_are_kept_for_an_hour_before_the_newest() -> None:
    state = _state(Act("ann", "served", "r2", NOW_MS + SERVED_MS), Act("ann", "served", "r1", NOW_MS))
    assert [served.request_id for served in state.served] == ["r2"]
    state.apply(Act("ann", "served", "r3", NOW_MS + 1, ("p",)))
    assert [served.request_id for served in state.served] == ["r3", "r2"]


def test_a_deletion_is_no_users_act() -> None:
    with pytest.raises(ValueError, match="catalogue"):
        UserState().apply(Act("", "deleted", "p", NOW_MS))


def _row(kind: str, **values: Any) -> Row:
    return {"event_type": kind, "user_id": "ann", "ping_id": "p", "received_ms": NOW_MS, "timestamp_ms": 5, **values}


@pytest.mark.parametrize(
    ("row", "acts"),
    [
        (_row("impression"), ["seen p"]),
        (_row("view", watch_time_ratio=0.1), ["seen p", "engaged p"]),
        (_row("like"), ["seen p", "engaged p"]),
        (_row("comment"), ["seen p", "engaged p"]),
        (_row("share"), ["seen p", "engaged p"]),
        (_row("hide"), ["hide p", "seen p"]),
        (_row("report"), ["hide p", "seen p"]),
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
    st.integers(0, signals.MAX_LANDMARK_AGE_MS),
    st.integers(0, 48 * HOUR_MS),
    st.sampled_from(["view", "like", "share"]),
)
def test_forward_decay_is_backward_decay(at: int, age: int, kind: str) -> None:
    landmark, now = NOW_MS, NOW_MS + at + age
    stored = signals.forward_weight(kind, landmark + at, landmark) * decay_between(landmark, now)
    assert stored == pytest.approx(signals.forward_weight(kind, now - age, now), rel=1e-9)
