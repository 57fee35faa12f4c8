"""Which home a command uses, for all commands alike.

It is `--home`, else `PINGFEED_HOME`, else the one that the last `pingfeed demo` or `pingfeed simulate history` of this
working directory made, else the default one. `var/current-home` names the third; `make clean` removes it.
"""

from collections.abc import MutableMapping
from pathlib import Path
from typing import Final

from pingfeed.files import make_folder, write_whole, writing

DEFAULT: Final = Path("var/pingfeed")
POINTER: Final = Path("var/current-home")
VARIABLE: Final = "PINGFEED_HOME"


def follow(environ: MutableMapping[str, str]) -> str:
    """Set the variable to the home that the pointer names, unless it is set; returns a sentence about it, or ""."""
    if environ.get(VARIABLE) or not POINTER.exists():
        return ""
    try:
        home = Path(POINTER.read_text(encoding="utf-8").strip())
        found = home.is_absolute() and home.is_dir()
    except (OSError, ValueError):  # A folder, or no text.
        return f"{POINTER} is unreadable and ignored; the home is {DEFAULT}"
    if not found:
        return f"{POINTER} names {home}, which does not exist; the home is {DEFAULT}"
    environ[VARIABLE] = str(home)
    return f"the home is {home} ({POINTER}); {VARIABLE} chooses another"


def point_to(home: Path) -> bool:
    """Make `home` the one that other commands use; False if the default one has a lake of its own and stays."""
    if home.absolute() == DEFAULT.absolute():
        POINTER.unlink(missing_ok=True)
        return True
    if (DEFAULT / "lake").exists():
        return False
    with writing(str(POINTER)):
        make_folder(POINTER.parent)
        write_whole(POINTER, f"{home.absolute()}\n".encode())
    return True
