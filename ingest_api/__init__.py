"""The ingest service: events in, durable before they are acknowledged."""
