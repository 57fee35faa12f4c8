"""A user's whole state as one value: a model of what stores keep, and what DynamoDB kept before."""

from typing import Final

import msgspec

from pingfeed.core.signals import RELATIONS, STATE_TTL_MS, Act, Profile, Relation, Session, UserState, decide

LIMITS: Final[dict[Relation, int]] = {"follow": 1000, "block": 500, "hide": 1000, "mute": 250}
"""Beyond them the oldest go first, so that an item stays within what a store takes."""


class WholeState(msgspec.Struct, array_like=True):
    """Relations with the time of the latest decision (negated if it took back), session and profile.

    Two decisions are ordered by when they happened; at the same millisecond the one that is applied later counts.
    """

    written_ms: int = 0
    """When the latest act was received; the session expires `STATE_TTL_MS` later."""
    relations: dict[Relation, dict[str, int]] = {}
    session: Session = msgspec.field(default_factory=Session)
    profile: Profile = msgspec.field(default_factory=Profile)

    def apply(self, act: Act) -> None:
        """Apply one act."""
        if act.at_ms > self.written_ms:
            if act.at_ms - STATE_TTL_MS >= self.written_ms:
                self.session = Session()
            self.written_ms = act.at_ms
        if act.kind in RELATIONS:
            relation, active = RELATIONS[act.kind]
            part = self.relations.setdefault(relation, {})
            decide(part, act.target, act.happened_ms, active, LIMITS[relation])
        elif act.profile is not None:
            self.profile.merge(act.profile)
        else:
            self.session.apply(act)

    @property
    def expires(self) -> bool:
        """Whether nothing but the session, which expires, is in it."""
        return not any(self.relations.values()) and not self.profile.values

    def at(self, now_ms: int) -> UserState:
        """What a reader gets."""
        session = self.session if self.written_ms > now_ms - STATE_TTL_MS else Session()
        blocks, unblocked = self._parts("block")
        hides, unhidden = self._parts("hide")
        mutes, unmuted = self._parts("mute")
        freed = unblocked | unhidden | unmuted
        return UserState(self.relations.get("follow", {}), blocks, hides, mutes, session, self.profile, freed)

    def _parts(self, relation: Relation) -> tuple[set[str], set[str]]:
        """The targets of a relation that hold, and those that were taken back, with the relation's name."""
        part = self.relations.get(relation, {})
        holding = {target for target, at_ms in part.items() if at_ms > 0}
        return holding, {f"{relation}:{target}" for target in part.keys() - holding}

    def encode(self) -> bytes:
        """MessagePack bytes, for a store."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes | None) -> "WholeState":
        """The state in `data`, an empty one for None; msgspec.DecodeError."""
        return msgspec.msgpack.decode(data, type=cls) if data else cls()
