"""The artifacts that the feed reads: snapshots and packets."""
