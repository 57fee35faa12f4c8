"""Offline evaluation on public data, with the features, the SQL and the training that serve."""
