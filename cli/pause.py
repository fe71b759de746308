"""`cytomask pause`: stop taking messages until `cytomask resume`, so that nothing is spent meanwhile."""

from typing import TYPE_CHECKING, Any

from cytomask.cli.console import complain, say
from cytomask.cli.options import Commands, Parser, add_command, on_stack

if TYPE_CHECKING:
    from cytomask.cli.stack import Stack

EXAMPLES = (
    "cytomask pause                                         # messages wait in the queue, at most 14 days",
    "cytomask resume                                        # the function takes messages again",
)


def add_parser(commands: "Commands[Parser]") -> None:
    """Add the parser of the command."""
    add_command(
        commands,
        "pause",
        "stop segmenting; messages wait in the queue",
        on_stack(lambda stack, _: switch(stack, enabled=False)),
        EXAMPLES,
        description="Calls over HTTP and scoring continue. The queue keeps a message for 14 days.",
        on_a_stack=True,
    )


def switch(stack: "Stack", *, enabled: bool) -> int:
    """Enable or disable the mapping from the segment queue to its function; print how many messages wait."""
    functions = stack.client("lambda")
    mappings = functions.list_event_source_mappings(FunctionName=f"{stack.name}-segment")
    found: list[dict[str, Any]] = mappings["EventSourceMappings"]
    if not found:
        complain(f"the function {stack.name}-segment takes from no queue; deploy the stack again")
        return 1
    for mapping in found:
        functions.update_event_source_mapping(UUID=mapping["UUID"], Enabled=enabled)
    waiting = stack.sqs.get_queue_attributes(
        QueueUrl=stack.segment_queue, AttributeNames=["ApproximateNumberOfMessages"]
    )["Attributes"]["ApproximateNumberOfMessages"]
    if enabled:
        say(f"resumed; {waiting} messages wait and are taken within a minute")
    else:
        say(f"paused; {waiting} messages wait; images in progress are finished first")
    return 0
