"""Training sets, models, the gate."""
