"""Names in a store: what a relative path or a key may look like, the same rules on every backend."""

from pathlib import PurePosixPath

from pingfeed.errors import InvalidInput


def is_hidden(name: str) -> bool:
    """Whether readers pass over a name: a half-written file (a dot) or another program's own (an underscore)."""
    return name.startswith((".", "_"))


def parts_of(relative: str) -> tuple[str, ...]:
    """The names in a path with forward slashes; InvalidInput if it would lead out of the store or to a hidden name."""
    parts = PurePosixPath(relative).parts
    if not parts or relative.startswith("/") or any(is_hidden(part) for part in parts):
        raise InvalidInput(f"{relative!r} is not a path below the store's folder")
    return parts
