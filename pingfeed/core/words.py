"""Numbers in sentences."""


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: `1 user`, `2,000 users`."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
