"""The generated blocks of `deploy/template.yaml`: the columns of the events table, and the saved queries.

`make template` rewrites them from `pingfeed/core/events.py` and `deploy/queries/*.sql`; a test compares. CloudFormation
can include neither a Python list nor a file.
"""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import indent
from typing import Final

from pingfeed.core.events import COLUMNS

TEMPLATE: Final = Path(__file__).with_name("template.yaml")
QUERIES: Final = Path(__file__).with_name("queries")
_QUERY: Final = """\
{name}Query:
  Type: AWS::Athena::NamedQuery
  Condition: IsReal
  Properties:
    Name: {title}
    Description: {description}
    Database: !Ref Database
    WorkGroup: !Ref WorkGroup
    QueryString: |
{sql}"""


def columns() -> str:
    """The columns of the events table."""
    return "".join(f'- {{Name: {column.name}, Type: "{column.kind}"}}\n' for column in COLUMNS)


def queries() -> str:
    """A saved query for each file; its first line is a comment that describes it."""
    return "\n".join(_query(path) for path in sorted(QUERIES.glob("*.sql")))


def _query(path: Path) -> str:
    text, words = path.read_text("utf-8"), path.stem.split("-")
    return _QUERY.format(
        name="".join(map(str.capitalize, words)),
        title=path.stem,
        description=text.partition("\n")[0].removeprefix("-- "),
        sql=indent(text, " " * 6),
    )


_BLOCKS: Final[Mapping[str, Callable[[], str]]] = {"columns": columns, "queries": queries}


def regenerated(text: str) -> str:
    """The template with its generated blocks written again."""
    for name, write in _BLOCKS.items():
        marks = re.compile(rf"^( *)# generated: {name}\n(?:.*\n)*?( *# end of generated: {name}\n)", re.MULTILINE)
        found = marks.search(text)
        assert found is not None, f"{TEMPLATE.name} has no marks for {name}"
        block = f"{found[1]}# generated: {name}\n{indent(write(), found[1])}{found[2]}"
        text = text[: found.start()] + block + text[found.end() :]
    return text


def main() -> None:
    """Rewrite the file."""
    TEMPLATE.write_text(regenerated(TEMPLATE.read_text("utf-8")), "utf-8")
    sys.stdout.write(f"wrote the generated blocks of {TEMPLATE.name}\n")


if __name__ == "__main__":
    main()
