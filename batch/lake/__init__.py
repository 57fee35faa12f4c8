"""The batch side's part of the lake: raw files, ledger, tables."""
