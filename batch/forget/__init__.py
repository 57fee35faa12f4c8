"""Forgetting a user: the command, the notes it leaves, and what the night makes of them."""
