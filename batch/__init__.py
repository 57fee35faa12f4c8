"""The batch side: ledger, aggregates, features, training set, model, candidates."""
