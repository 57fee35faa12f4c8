"""The stages of a feed, one a file."""
