"""Both services' way to the EventSink: a durable spool and what empties it."""
