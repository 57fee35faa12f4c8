"""This machine's disk, done right once: whole files that last, and SQLite with group commit."""
