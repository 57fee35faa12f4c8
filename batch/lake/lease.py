"""The lease while a run holds it: renewed in the background, and checked before every change."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pingfeed.core.errors import Busy, PingfeedError
from pingfeed.ports import Lease

ANOTHER: Final = "another etl, tick or train is running on this lake; try again when it has finished"
SECONDS: Final = 60.0
"""How long other machines wait for one that died. A run renews it three times as often."""
_PAUSE_S: Final = 0.2
_LOG = logging.getLogger(__name__)


class HeldLease:
    """A lease that this process holds, or held until it lost it."""

    def __init__(self, lease: Lease, fence: int, seconds: float) -> None:
        self.fence = fence
        self._lease, self._seconds = lease, seconds
        self._lost = False
        self._one_at_a_time = threading.Lock()
        self._until = time.monotonic() + seconds / 2

    def check(self) -> None:
        """Raise Busy once it is lost; asks the store only if nothing was heard of it for half its time."""
        if self._lost or time.monotonic() > self._until:
            self.verify()

    def verify(self) -> None:
        """Renew it now: on return, no other run had taken it when this was called. Busy, Unavailable."""
        with self._one_at_a_time:
            began = time.monotonic()
            try:
                if self._lost:
                    raise Busy(ANOTHER)
                self._lease.renew(self.fence, self._seconds)
            except Busy as error:
                self._lost = True
                raise Busy(f"{ANOTHER}: this run was paused for too long and another began") from error
            self._until = began + self._seconds / 2

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Renew it in the background, and release it at the end. An error of a run that has lost it is Busy."""
        ended = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(ended,), daemon=True, name="lease")
        renewing.start()
        try:
            yield
        except Busy:
            raise
        except Exception:  # Any error is raised again, but as Busy if another run has replaced what is missing.
            self.check()
            raise
        finally:
            ended.set()
            renewing.join()
            self._release()

    def _renew(self, ended: threading.Event) -> None:
        while not self._lost and not ended.wait(self._seconds / 3):
            try:
                self.verify()
            except PingfeedError as error:
                _LOG.error("the lease was not renewed: %s", error.message)

    def _release(self) -> None:
        try:
            self._lease.release(self.fence)
        except PingfeedError as error:  # It expires.
            _LOG.error("the lease was not released: %s", error.message)


def acquire(lease: Lease, floor: int, wait_s: float) -> HeldLease:
    """Take the lease, with a number above `floor`; Busy if its holder does not finish within `wait_s`."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return HeldLease(lease, lease.acquire(SECONDS, floor), SECONDS)
        except Busy as error:
            if time.monotonic() >= deadline:
                raise Busy(f"{ANOTHER} ({error.message})") from error
        time.sleep(_PAUSE_S)
