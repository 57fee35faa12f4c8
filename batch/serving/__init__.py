"""What the feed reads: snapshots, candidates, packets."""
