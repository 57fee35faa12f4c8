"""`python -m tests.settings_document`: writes docs/settings.md from the docstrings, types and defaults of Settings."""

import ast
import inspect
import itertools
import re
from pathlib import Path
from typing import Any, Final, Literal, get_args

from pingfeed.settings import PREFIX, SCHEMES, Settings, base_of, kinds, rule

PAGE: Final = Path(__file__).parents[1] / "docs" / "settings.md"
_GENERATED: Final = re.compile(r"(?s)(<!-- begin generated -->\n).*(<!-- end generated -->)")


def document() -> str:
    """The page with its tables made anew; what stands around them stays."""
    return _GENERATED.sub(lambda found: found[1] + _tables() + found[2], PAGE.read_text(encoding="utf-8"))


def _tables() -> str:
    source = inspect.getsource(Settings)
    heads = {source[: found.start()].count("\n") + 1: found[1] for found in re.finditer(r"(?m)^    # (.+)$", source)}
    body = ast.parse(source).body[0].body  # type: ignore[attr-defined]
    lines = []
    for field, meaning in itertools.pairwise(body):
        if not isinstance(field, ast.AnnAssign):
            continue
        if head := heads.get(field.lineno - 1):
            lines.append(f"\n## {head}\n\n| variable | default | range | meaning |\n|---|---|---|---|\n")
        lines.append(_row(field.target.id, " ".join(meaning.value.value.split())))  # type: ignore[union-attr]
    return "".join([*lines, "\n"])


def _row(name: str, meaning: str) -> str:
    return f"| `{PREFIX}{name.upper()}` | {_default(name)} | {_range(name)} | {meaning} |\n"


def _default(name: str) -> str:
    value = getattr(Settings, name)
    if isinstance(value, tuple):
        value = ",".join(value)
    if name == "spool_dir":
        value = f"HOME/{value}"
    text = str(int(value)) if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
    return f"`{text}`" if text else "(empty)"


def _range(name: str) -> str:
    kind: Any = kinds()[name]
    base = base_of(kind)
    if name in SCHEMES:
        return " ".join(f"`{scheme}://`" for scheme in SCHEMES[name])
    if base in (int, float):
        return re.sub(r"\d{4,}", lambda found: f"{int(found[0]):,}", rule(kind).partition(" from ")[2])
    if base is bool:
        return "0 or 1"
    if base is tuple:
        return "comma-separated"
    return (
        ", ".join(f"`{one}`" for one in get_args(kind)) if base is Literal else "a folder" if base is Path else "text"
    )


if __name__ == "__main__":
    PAGE.write_text(document(), encoding="utf-8")
