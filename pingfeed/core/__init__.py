"""The shared language without I/O: imports nothing above it."""
