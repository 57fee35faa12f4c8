"""The stages of a feed, one per file."""
