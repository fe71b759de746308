"""`cytomask up`: run the emulated stack, for boto3 or the AWS CLI."""

import tempfile
import threading
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cytomask.cli.console import complain, say
from cytomask.cli.options import Commands, Parser, add_command, port, require_extra

if TYPE_CHECKING:
    from cytomask.infra.emulator import EmulatedStack

EXAMPLES = (
    "cytomask up                                            # prints the endpoint, lines to copy, `ready`",
    "cytomask up --port 4566                                # at the same address each time",
    "cytomask upload plate/ --endpoint-url http://127.0.0.1:4566    # in another terminal",
)
EMULATOR = ("ministack", "samtranslator", "yaml")  # modules of the extra `local` that the stack imports


def add_parser(commands: "Commands[Parser]") -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "up",
        "run the emulated stack until Ctrl-C",
        run,
        EXAMPLES,
        description="The stack listens on 127.0.0.1, keeps everything in memory and needs no AWS account.",
    )
    parser.add_argument("--port", type=port, default=0, metavar="N", help="default: any free port")


def run(arguments: Namespace) -> int:
    """Print the endpoint, the stack's outputs, lines to copy and `ready`; serve until interrupted."""
    require_extra("local", *EMULATOR)
    from cytomask.cli.web import served_beside
    from cytomask.infra.children import ChildFailed  # needs the extra `local`
    from cytomask.infra.emulator import StackFailed, emulated_stack

    complain("starting the emulated stack; this takes a few seconds ...")
    try:
        with (
            tempfile.TemporaryDirectory(prefix="cytomask-") as folder,
            emulated_stack(Path(folder), arguments.port) as stack,
            served_beside(stack.endpoint) as page,
        ):
            _introduce(stack, page)
            threading.Event().wait()
    except (ChildFailed, StackFailed) as error:
        for line in str(error).splitlines():
            complain(line)
        return 2
    return 0


def _introduce(stack: "EmulatedStack", page: str | None) -> None:
    say(stack.endpoint)
    for name, value in sorted(stack.outputs.items()):
        say(f"{name}={value}")
    say(f"log={stack.log}")
    say(f"export {' '.join(f'{name}={value}' for name, value in environment_of(stack.endpoint).items())}")
    say(f"cytomask jobs --endpoint-url {stack.endpoint}")
    if page:
        say(f"page={page}")
    say("ready")


def environment_of(endpoint: str) -> Mapping[str, str]:
    """Return the environment variables that boto3 and the AWS CLI need for the emulated account."""
    from cytomask.infra.session import CREDENTIALS, REGION  # boto3 takes half a second

    return {
        "AWS_ENDPOINT_URL": endpoint,
        **CREDENTIALS,
        "AWS_DEFAULT_REGION": REGION,
        "NO_PROXY": "127.0.0.1,localhost",
    }
