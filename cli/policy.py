"""`cytomask policy`: print the IAM policy of a role for this stack."""

from argparse import Namespace
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cytomask.cli.console import say_all
from cytomask.cli.options import Commands, Parser, add_command, on_stack

if TYPE_CHECKING:
    from cytomask.cli.stack import Stack

POLICIES = Path(__file__).resolve().parents[1] / "infra" / "policies"
ROLES = {
    "microscope": "puts images into the input bucket, and nothing else",
    "scientist": "uploads images and ground truths, reads masks, jobs and logs",
    "operator": "can do all of this, sends failed jobs again, pauses, checks, backfills",
    "deployer": "creates, changes and deletes the stack",
}
EXAMPLES = (
    "cytomask policy microscope > microscope.json           # then: aws iam create-policy …",
    "cytomask policy scientist --stack cytomask-test",
)


def add_parser(commands: "Commands[Parser]") -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "policy",
        "print the IAM policy of a role",
        on_stack(run_policy),
        EXAMPLES,
        on_a_stack=True,
    )
    parser.add_argument(
        "role",
        choices=tuple(ROLES),
        help="; ".join(f"{role}: {what}" for role, what in ROLES.items()),
    )


def run_policy(stack: "Stack", arguments: Namespace) -> int:
    """Print the policy, with the names of the stack filled in."""
    # https://sqs.REGION.amazonaws.com/ACCOUNT/NAME, and http://127.0.0.1:PORT/ACCOUNT/NAME in the emulator
    account = stack.segment_queue.split("/")[-2]
    region = stack.s3.meta.region_name
    names = {
        "StackName": stack.name,
        "AccountId": account,
        "Region": region,
        "ApiId": (urlsplit(stack.api_url or "").hostname or "").partition(".")[0],
        "Images": stack.name.replace("-", ""),  # SAM leaves the hyphens out of its repository's name
    }
    say_all(Template((POLICIES / f"{arguments.role}.json").read_text()).substitute(names).rstrip())
    return 0
