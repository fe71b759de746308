"""Write docs/commands.md from the parsers: `python -m cytomask.cli.reference`."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from cytomask.cli.main import COMMANDS, make_parser
from cytomask.cli.options import Parser

PAGE = Path(__file__).resolve().parents[1] / "docs" / "commands.md"
HEAD = """\
# The commands

Made from the parsers by `python -m cytomask.cli.reference`; a test keeps it current. `make run` puts the
command at `.venv/bin/cytomask`.

Lines about files and jobs go to standard output, everything else to standard error. Control characters in
names are printed as escapes, such as `\\x1b`. In CSV files, text that a spreadsheet would read as a formula
begins with `'`.

| exit code | means |
|---|---|
| 0 | done |
| 1 | something was refused, failed or not found |
| 2 | wrong usage, or the command could not start |
| 130 | stopped by Ctrl-C |
| 141 | the reader of the output closed it |

Commands that work on a stack find it by your AWS settings, or by `--endpoint-url` if `cytomask up` runs it.
The first digits of a job's id are enough. Times are in UTC.
"""


def main() -> int:
    """Write the page."""
    PAGE.write_text(reference(), encoding="utf-8")
    return 0


def reference() -> str:
    """Return the page: a section for each command, in the order of the help."""
    commands = _commands(make_parser())
    contents = "\n".join(f"- [`{name}`](#cytomask-{name}): {_summary(commands[name])}" for name in COMMANDS)
    return "\n".join(
        [HEAD, contents, *(line for name in COMMANDS for line in _section(name, commands[name]))]
    )


def _commands(parser: Parser) -> dict[str, Parser]:
    (subparsers,) = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    choices: dict[str, Parser] = subparsers.choices
    return choices


def _summary(parser: Parser) -> str:
    first: str = (parser.description or "").split("\n")[0].rstrip(".")
    return first[0].lower() + first[1:]


def _section(name: str, parser: Parser) -> Iterator[str]:
    _, _, more = (parser.description or "").partition("\n\n")
    yield f"\n## cytomask {name}\n"
    yield f"{(parser.description or '').split(chr(10))[0]}" + (f" {' '.join(more.split())}" if more else "")
    yield "\n```sh"
    yield from (line.strip() for line in (parser.epilog or "").split("\n")[1:])
    yield "```\n"
    actions = [each for each in parser._actions if not isinstance(each, argparse._HelpAction)]
    if actions:
        yield "| | |"
        yield "|---|---|"
        yield from (f"| {_spelling(each)} | {_cell(each.help or '')} |" for each in actions)


def _spelling(action: argparse.Action) -> str:
    """Return how an argument is written."""
    if action.nargs == 0:
        return f"`{', '.join(action.option_strings)}`"
    value = action.metavar or (f"{{{','.join(map(str, action.choices))}}}" if action.choices else action.dest)
    several = "…" if action.nargs in ("+", "*") else ""
    return f"`{' '.join([*action.option_strings, f'{value}{several}'])}`".replace("|", "\\|")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
