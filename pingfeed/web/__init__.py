"""What both services share: app shell, auth, limits, errors, health, offline docs."""
