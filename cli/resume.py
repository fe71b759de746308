"""`cytomask resume`: take messages again after `cytomask pause`."""

from cytomask.cli.options import Commands, Parser, add_command, on_stack
from cytomask.cli.pause import EXAMPLES, switch


def add_parser(commands: "Commands[Parser]") -> None:
    """Add the parser of the command."""
    add_command(
        commands,
        "resume",
        "segment again after a pause",
        on_stack(lambda stack, _: switch(stack, enabled=True)),
        EXAMPLES,
        on_a_stack=True,
    )
