"""The shared language without I/O: events, signals, features, formats."""
