"""Simulated users and pings: a history for the lake, live traffic over HTTP, and a measure of feed quality."""
