"""A small world of users and creators with known tastes, which plays events."""
