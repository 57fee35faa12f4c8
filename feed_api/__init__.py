"""The feed service: a packet, a snapshot and a user's signals become ten pings."""
