"""Other people's logs as history of the lake: read in blocks, mapped, checked, written by UTC day of arrival."""
