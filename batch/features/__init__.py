"""Features as of a tick: the engine, the catalogue, day states, point-in-time reads."""
