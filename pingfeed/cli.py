"""The `pingfeed` command: finds the command in the table, parses its options, calls its function, prints errors.

Every command that is installed is listed by `pingfeed` alone. Only the chosen one's module is imported, and only to run
it: help needs nothing but the table.
"""

import argparse
import os
import signal
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

from pingfeed.command_table import GROUPS, Command
from pingfeed.core.errors import PingfeedError

_ABOUT: Final = "pingfeed: a personalised feed. Events in, a ranked feed out.\n\nusage: pingfeed COMMAND [OPTIONS]\n"
_FOOT: Final = (
    "\n`pingfeed COMMAND --help` explains a command and its options. Settings are environment variables (PINGFEED_*):\n"
    "docs/settings.md lists them, `pingfeed doctor` shows those that apply.\n"
)
_OWN_HOME: Final = ("demo", "evaluate ranklens")
"""Commands that use no installation's home."""


class _Parser(argparse.ArgumentParser):
    """Errors are one sentence, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; `{self.prog} --help` explains the options\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. The exit code is 1 for an error of ours, in one sentence, and 2 for wrong arguments."""
    _exit_on_sigterm()
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = _find(given)
    if command is None:
        return _without_command(given)
    try:
        return run(command, given[len(command.name.split()) :])
    except PingfeedError as error:
        sys.stderr.write(f"pingfeed {command.name}: {error.message}\n")
        return 1
    except BrokenPipeError:  # The reader of our output ended, such as `head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def run(command: Command, arguments: Sequence[str]) -> int:
    """Parse a command's arguments and call its function with them."""
    given = vars(parser_of(command).parse_args(arguments))
    if command.name not in _OWN_HOME and not given.get("home"):
        from pingfeed.home import follow  # imports more than help needs

        if said := follow(os.environ):
            sys.stderr.write(f"pingfeed: {said}\n")
    return int(command.function()(**given) or 0)


def installed() -> Mapping[str, Sequence[Command]]:
    """The table without the commands whose package is absent: a serving image has no batch side."""
    found = {title: [command for command in group if command.installed] for title, group in GROUPS.items()}
    return {title: group for title, group in found.items() if group}


def parser_of(command: Command) -> argparse.ArgumentParser:
    """The parser of a command's options; its help has the sentence, an example and every option."""
    parser = _Parser(
        prog=f"pingfeed {command.name}",
        description=textwrap.fill(command.meaning, 100),
        epilog="example:\n" + "\n".join(f"  {line}" for line in command.example.splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for names, details in command.options:
        parser.add_argument(*names, **details)
    return parser


def _find(given: Sequence[str]) -> Command | None:
    every = [command for group in installed().values() for command in group]
    return next((command for command in every if given[: len(words := command.name.split())] == words), None)


def _without_command(given: Sequence[str]) -> int:
    """Print the help of everything, or of the commands that begin with the word; else say what was meant."""
    words = [word for word in given if not word.startswith("-")]
    if not given or given[0] in ("-h", "--help", "help"):
        sys.stdout.write(overview())
        return 0
    family = words[0] if words else ""
    if any(command.name.startswith(f"{family} ") for group in GROUPS.values() for command in group) and len(words) == 1:
        sys.stdout.write(overview(family))
        return 0 if {"-h", "--help"} & set(given) else 2
    import difflib

    names = [command.name for group in installed().values() for command in group]
    near = difflib.get_close_matches(" ".join(words[:2]), names, n=1) or difflib.get_close_matches(family, names, n=1)
    meant = f"did you mean `pingfeed {near[0]}`?" if near else "`pingfeed --help` lists them"
    sys.stderr.write(f"pingfeed: there is no command {' '.join(words[:2] or given[:1])!r}; {meant}\n")
    return 2


def overview(family: str = "") -> str:
    """Every installed command with what it is for, or those of one family such as `model`."""
    text = "" if family else _ABOUT
    for title, group in installed().items():
        text += "" if family else f"\n{title}\n"
        chosen = (command for command in group if not family or command.name.startswith(f"{family} "))
        text += "".join(f"  {command.name:<20}{command.summary}\n" for command in chosen)
    return text + ("" if family else _FOOT)


def _exit_on_sigterm() -> None:
    """PID 1 of a container ignores SIGTERM unless it installs a handler. Services and the scheduler install theirs."""
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, lambda number, _frame: os._exit(128 + number))
