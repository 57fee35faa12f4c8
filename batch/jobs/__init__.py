"""Scheduled work: ticks and the nightly job."""
