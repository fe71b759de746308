"""`cytomask detach`: undo `cytomask attach`."""

from cytomask.cli.attach import EXAMPLES, add_place, run_detach
from cytomask.cli.options import Commands, Parser, add_command, on_stack


def add_parser(commands: "Commands[Parser]") -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "detach",
        "stop segmenting uploads to an attached bucket",
        on_stack(run_detach),
        EXAMPLES,
        description="Existing masks stay in the output bucket.",
        on_a_stack=True,
    )
    add_place(parser)
