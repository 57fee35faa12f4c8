"""What commands print: JSON for machines, tables for people."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec


def print_json(value: Any) -> None:
    """One JSON document on a line of standard output."""
    sys.stdout.write(msgspec.json.encode(value, enc_hook=vars).decode() + "\n")


def print_table(heads: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "") -> None:
    """A table whose words are never cut, whatever the width: an id can be copied. Sentences fold in a terminal.

    Piped, a row is one line.
    """
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    cells = [[cell if isinstance(cell, Text) else Text(str(cell)) for cell in row] for row in rows]
    table = Table(title=title or None)
    for at, head in enumerate(heads):
        table.add_column(Text(head), overflow="fold", no_wrap=not any(" " in row[at].plain for row in cells))
    for row in cells:
        table.add_row(*row)
    console = Console()
    needed = Measurement.get(console, console.options.update(width=1_000_000), table)
    Console(width=max(console.width, needed.minimum) if console.is_terminal else needed.maximum).print(table)
