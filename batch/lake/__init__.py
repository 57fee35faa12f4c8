"""What the batch side keeps in the lake: raw files, ledger, tables."""
