"""Shared parts of the commands' parsers: add a command, and read its kinds of values."""

import argparse
import os
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, NoReturn

from cytomask.cli.console import printable, say_all

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

    from cytomask.cli.stack import Stack

Commands = argparse._SubParsersAction  # argparse has no public name for it
Run = Callable[[Namespace], int]
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
LONGEST_TIME = timedelta(days=36_500)
MOST_CHANNELS = 1000
OUTPUTS = ("mask", "probability", "overlay", "rois", "geojson", "labels", "ome")


class MissingExtra(Exception):
    """A command needs packages that are not installed."""


class Parser(ArgumentParser):
    """A parser with printable messages: a shell's `*` may put any file name into them."""

    def error(self, message: str) -> NoReturn:
        """Print usage and the message, and exit with 2."""
        super().error(printable(message))

    def _print_message(self, message: str, file: "SupportsWrite[str] | None" = None) -> None:
        """Write help, usage or version; argparse itself ignores a closed or full standard output."""
        if file is sys.stdout:
            say_all(message.rstrip("\n"))
        else:
            super()._print_message(message, file)


def add_command(
    commands: "Commands[Parser]",
    name: str,
    summary: str,
    run: Run,
    examples: Sequence[str],
    *,
    description: str = "",
    on_a_stack: bool = False,
) -> Parser:
    """Add a command's own parser.

    Args:
        commands: where to add the parser.
        name: name of the command.
        summary: one line, for the list of commands and the top of its help.
        run: runs the command with its arguments and returns the exit code.
        examples: command lines, each with its effect after a #.
        description: details for its help.
        on_a_stack: whether to add --stack and --endpoint-url.
    """
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}." + (f"\n\n{description}" if description else ""),
        epilog="examples:\n" + "\n".join(f"  {example}" for example in examples),
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    if on_a_stack:
        stack = parser.add_argument_group("which stack")
        stack.add_argument(
            "--stack",
            default=os.environ.get("CYTOMASK_STACK") or "cytomask",
            metavar="NAME",
            help="name of the stack in CloudFormation; default: CYTOMASK_STACK, or cytomask",
        )
        stack.add_argument(
            "--endpoint-url", metavar="URL", help="the first line printed by `cytomask up`; default: AWS"
        )
    return parser


def add_channel_option(parser: Parser) -> None:
    """Add the option that names the channel to read."""
    parser.add_argument(
        "--channel", type=channel, metavar="N", help="channel of multi-channel images, counted from 0"
    )


def add_cleaning_options(parser: Parser) -> None:
    """Add the options that clean masks after the network; the request's reader checks their values."""
    parser.add_argument(
        "--min-size-px", type=float, metavar="N", help="remove regions of fewer pixels; default: none"
    )
    parser.add_argument(
        "--min-size-um2",
        type=float,
        metavar="A",
        help="the same in square micrometres, if a pixel's size is known",
    )
    parser.add_argument(
        "--fill-holes", action="store_true", default=None, help="count holes in regions as cell"
    )
    parser.add_argument(
        "--pixel-size-um",
        type=pixel_size,
        metavar="S",
        help="side of a pixel in micrometres, such as 0.65 or 0.65x0.7; default: from the file",
    )


def on_stack(command: "Callable[[Stack, Namespace], int]") -> Run:
    """Return a command that connects to its stack before it runs."""

    def run(arguments: Namespace) -> int:
        from cytomask.cli.stack import run_on_stack  # boto3 takes half a second

        return run_on_stack(command, arguments)

    return run


def require_extra(extra: str, *modules: str) -> None:
    """Raise MissingExtra if a module of the extra is not installed."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise MissingExtra(
            f"this needs {', '.join(missing)}, from the extra `{extra}`: pip install 'cytomask[{extra}]'"
        )


def duration(text: str) -> timedelta:
    """Read a time such as 90s, 30m, 2h or 7d."""
    number, unit = text[:-1], text[-1:]
    if not number.isdecimal() or unit not in UNITS:
        raise ArgumentTypeError(f"{text[:50]!r} is not a time; give a number with s, m, h or d, such as 2h")
    try:
        time = timedelta(**{UNITS[unit]: int(number)})
    except (OverflowError, ValueError):
        time = LONGEST_TIME + timedelta(days=1)
    if time > LONGEST_TIME:
        raise ArgumentTypeError(f"{text[:50]} is too long; give at most {LONGEST_TIME.days}d")
    return time


def moment(text: str) -> datetime:
    """Read a point in time: how long ago (2h, 7d), or a date (2026-11-25, 2026-11-25T14:30), in UTC."""
    if text[-1:] in UNITS and text[:-1].isdecimal():
        return datetime.now(UTC) - duration(text)
    try:
        date = datetime.fromisoformat(text)
        return date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ArgumentTypeError(
            f"{text[:50]!r} is not a time; give how long ago, such as 2h or 7d, or a date, such as 2026-11-25"
        ) from None


def probability(text: str) -> float:
    """Read a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ArgumentTypeError(f"{text[:50]!r} is not between 0 and 1")
    return value


def channel(text: str) -> int:
    """Read the number of a channel, counted from 0."""
    return _number(text, 0, MOST_CHANNELS - 1, "channel, counted from 0")


def pixel_size(text: str) -> float | list[float]:
    """Read the side of a pixel, or its width and height with an x between them."""
    try:
        sides = [float(side) for side in text.split("x")]
    except ValueError:
        sides = []
    if not 1 <= len(sides) <= 2:
        raise ArgumentTypeError(
            f"{text[:50]!r} is not a pixel's size; give micrometres, such as 0.65 or 0.65x0.7"
        )
    return sides if len(sides) == 2 else sides[0]


def port(text: str) -> int:
    """Read the number of a port; 0 means any free one."""
    return _number(text, 0, 65_535, "port")


def count(text: str) -> int:
    """Read a count of at least one."""
    return _number(text, 1, 999_999_999, "number")


def seed(text: str) -> int:
    """Read the seed of random numbers."""
    return _number(text, 0, 999_999_999, "seed")


def _number(text: str, least: int, most: int, what: str) -> int:
    value = int(text) if text.isdecimal() and len(text) < 10 else -1
    if not least <= value <= most:
        raise ArgumentTypeError(f"{text[:50]!r} is not a {what}; give a whole number from {least} to {most}")
    return value
