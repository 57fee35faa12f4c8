"""What a delivery counts: plain numbers for metrics."""

from dataclasses import dataclass


@dataclass
class Counters:
    """What happened since the process began, and what waits now."""

    accepted: int = 0
    """Events that are durable: in the spool or past it."""
    delivered: int = 0
    """Events that the sink took. Those of an earlier process count too, so it may pass `accepted`."""
    delivery_failures: int = 0
    """Times that the sink refused a batch, or the spool refused to delete one."""
    apply_failures: int = 0
    """Times that the signals of accepted events could not be applied; they are tried again."""
    apply_given_up: int = 0
    """Events whose signals no second try can apply; they are delivered all the same."""
    spooled_events: int = 0
    """Undelivered events now."""
    spooled_bytes: int = 0
    """Undelivered bytes now."""
    spooled_damage: int = 0
    """Places in the spool's files, found by this process, that are no whole record."""
    unapplied: int = 0
    """Segments now of which some signals still have to be applied."""
