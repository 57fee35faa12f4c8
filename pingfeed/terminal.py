"""What commands print: JSON for machines, tables for people."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

_ONE_LINE: Final = dict.fromkeys(map(ord, "\t\n\r"), " ")


def print_json(value: Any) -> None:
    """One JSON document on a line of standard output."""
    sys.stdout.write(msgspec.json.encode(value, enc_hook=vars).decode() + "\n")


def print_table(heads: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "") -> None:
    """A table whose words are never cut, whatever the width: an id can be copied. Sentences fold in a terminal.

    Anywhere else, a row is a line of columns with spaces between them, after the title and the heads.
    """
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    # Not by FORCE_COLOR and the like: a program that reads the lines wants no colours and boxes.
    console = Console(force_terminal=sys.stdout.isatty())
    if not console.is_terminal:
        sys.stdout.write(f"{title}\n" * bool(title))
        lines = [[str(cell).translate(_ONE_LINE) for cell in line] for line in (heads, *rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            sys.stdout.write("  ".join(map(str.ljust, line, widths)).rstrip() + "\n")
        return
    cells = [[cell if isinstance(cell, Text) else Text(str(cell)) for cell in row] for row in rows]
    table = Table(title=title or None)
    for at, head in enumerate(heads):
        table.add_column(Text(head), overflow="fold", no_wrap=not any(" " in row[at].plain for row in cells))
    for row in cells:
        table.add_row(*row)
    needed = Measurement.get(console, console.options.update(width=1_000_000), table)
    Console(width=max(console.width, needed.minimum)).print(table)
