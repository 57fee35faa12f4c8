"""The order in which a release takes over from the one that serves, on any platform.

A feed reads packets, snapshot and model of its own feature digest only. Where the digest changes, these are made before
a feed of the new one serves, and the packets go to the slot that the running feed does not read: it keeps its own.

    ticks run the target; a tick for everyone; a model, if none is live, and a tick for everyone with it; traffic moves

A rollback is the same with an earlier release as the target, which keeps the model that it had: nothing is trained.
"""

from collections.abc import Callable
from typing import Protocol

import msgspec

from pingfeed.core.errors import PingfeedError


class ReleaseError(PingfeedError):
    """A step of a release failed; the message says what serves now."""


class Release(msgspec.Struct, frozen=True):
    """What is deployed together: the versions of the functions, their feature digest, and the slot of its packets."""

    digest: str
    slot: str = "a"
    versions: dict[str, str] = {}
    """Function -> its published version."""


class Platform(Protocol):
    """Where releases run: AWS Lambda (`deploy/stack.py`), or processes in a test."""

    def run_ticks_of(self, release: Release) -> None:
        """Ticks run this release from now on; the services keep serving the one that they serve."""

    def tick_everyone(self) -> None:
        """Run a tick that refreshes the packets of all users, and return when it is done."""

    def has_model(self, digest: str) -> bool:
        """Whether a model of this feature digest is live."""

    def train(self) -> str:
        """Train with the features of the release whose ticks run; the sentence that says what came of it."""

    def serve(self, release: Release) -> None:
        """The whole release runs and serves: the traffic moves to it."""


def roll_out(
    platform: Platform, live: Release | None, target: Release, say: Callable[[str], object], *, train: bool = True
) -> None:
    """Let `target` take over from `live` (None before the first release); until a ReleaseError the traffic stays."""
    if live is None or live.digest == target.digest:
        platform.serve(target)
        return
    say(f"the features change ({live.digest} -> {target.digest}): tick and model come before the feed")
    platform.run_ticks_of(target)
    platform.tick_everyone()
    if train and not platform.has_model(target.digest):
        sentence = platform.train()
        say(sentence)
        if platform.has_model(live.digest) and not platform.has_model(target.digest):
            raise ReleaseError(
                f"No model with the new features is live: {sentence} The feed still serves the earlier release, with "
                "its model; ticks run the new one. Roll back, or promote a model and deploy again."
            )
        platform.tick_everyone()
    platform.serve(target)


def other_slot(slot: str) -> str:
    """The slot that a release with other features writes its packets to."""
    return "b" if slot == "a" else "a"
