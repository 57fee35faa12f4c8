"""Words of a log as labels and names that fit the event schema: cut where they are too long, and counted."""

import re
from typing import Any, Final

from pingfeed.core.events import MAX_LIST

MAX_LABEL: Final = 128
_MAX_NAME: Final = 32
_NO_NAME: Final = re.compile(r"[^a-z0-9_]+")


class Labels:
    """Makes lists of labels; `cut` counts the labels that lost characters or had no room."""

    def __init__(self) -> None:
        self.cut = 0

    def of(self, value: Any) -> list[str]:
        """A text, or a list with texts in it, as distinct labels in order; [] for anything else."""
        given = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        texts = [one.strip() for one in given if isinstance(one, str)]
        labels = list(dict.fromkeys(text[:MAX_LABEL] for text in texts if text))
        self.cut += sum(len(text) > MAX_LABEL for text in texts) + max(0, len(labels) - MAX_LIST)
        return labels[:MAX_LIST]


def as_name(text: str) -> str:
    """A field's name as the name of a facet or attribute: `[a-z][a-z0-9_]*`, at most 32 characters."""
    name = _NO_NAME.sub("_", text.lower()) or "_"
    return (name if name[0].isalpha() else f"f_{name}")[:_MAX_NAME]
