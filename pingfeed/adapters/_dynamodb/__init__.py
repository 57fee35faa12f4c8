"""Shared by the DynamoDB adapters: one connection per event loop, the items, and the list of deleted pings."""
