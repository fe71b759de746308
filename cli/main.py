"""`cytomask COMMAND`: find the command, run it, and end with its exit code and no traceback."""

import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from cytomask import __version__
from cytomask.cli.console import (
    OutputClosed,
    OutputFailed,
    abandon_output,
    complain,
    flush_output,
    prepare_streams,
)
from cytomask.cli.options import MissingExtra, Parser

# Each is a module of this package with `add_parser`. In this order the help lists them.
COMMANDS = (
    "segment",
    "finetune",
    "compare",
    "models",
    "demo",
    "up",
    "web",
    "upload",
    "submit",
    "evaluate",
    "jobs",
    "download",
    "report",
    "plates",
    "plate",
    "reindex",
    "logs",
    "failed",
    "redrive",
    "pause",
    "resume",
    "backfill",
    "attach",
    "detach",
    "promote",
    "costs",
    "check",
    "policy",
)
STOPPED, CLOSED = 130, 141  # like shells: 128 plus the number of the signal, SIGINT or SIGPIPE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 something was refused or failed, 2 wrong usage."""
    prepare_streams()
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        try:
            code = _run(given)
        finally:
            flush_output()
        return code
    except KeyboardInterrupt:
        complain("stopped")
        return STOPPED
    except MissingExtra as error:
        complain(str(error))
        return 2
    except OutputClosed:
        abandon_output()
        return CLOSED
    except OutputFailed as error:
        abandon_output()
        complain(f"the output cannot be written: {error}")
        return 1


def _run(arguments: Sequence[str]) -> int:
    parsed = make_parser(arguments[:1]).parse_args(arguments)
    # A terminated command cleans up like an interrupted one.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    code: int = parsed.run(parsed)
    return code


def make_parser(wanted: Sequence[str] = ()) -> Parser:
    """Make a parser for the named commands, or for all if none is named or one is unknown."""
    parser = Parser(
        prog="cytomask",
        description="Make masks of living cells from microscope images.",
        epilog="`cytomask COMMAND --help` shows the options of a command, and examples.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cytomask {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    known = wanted and set(wanted) <= set(COMMANDS)
    for name in wanted if known else COMMANDS:
        import_module(f"cytomask.cli.{name}").add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
