"""`cytomask attach`: make an existing bucket an input of the stack, and undo it (`detach`)."""

import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cytomask.cli.backfill import split_place
from cytomask.cli.console import complain, say
from cytomask.cli.options import Commands, Parser, add_command, on_stack

if TYPE_CHECKING:
    from cytomask.cli.stack import Stack

EXAMPLES = (
    "cytomask attach s3://lab-images/scans/                 # uploads below scans/ are segmented from now on",
    "cytomask backfill s3://lab-images/scans/               # also segment the images already there",
    "cytomask detach s3://lab-images/scans/",
)
KINDS = ("QueueConfigurations", "TopicConfigurations", "LambdaFunctionConfigurations")
TARGETS = ("QueueArn", "TopicArn", "LambdaFunctionArn")

Configuration = dict[str, Any]


def add_parser(commands: "Commands[Parser]") -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "attach",
        "make an existing bucket an input of the stack",
        on_stack(run_attach),
        EXAMPLES,
        description="Adds one notification to the bucket, keeps its existing ones, and gives the stack the\n"
        "right to read it. Shows the update of the stack first. Masks are written to the stack's output\n"
        "bucket, under the bucket's name.",
        on_a_stack=True,
    )
    add_place(parser)


def add_place(parser: Parser) -> None:
    """Add the arguments that `attach` and `detach` share."""
    parser.add_argument("place", metavar="S3URI", help="s3://bucket or s3://bucket/prefix")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run_attach(stack: "Stack", arguments: Namespace) -> int:
    """Attach a bucket; return 2 if that is impossible, 1 if the user declined."""
    bucket, prefix = split_place(arguments.place)
    if reason := why_not(stack, bucket):
        complain(reason)
        return 2
    present = notifications(stack, bucket)
    if other := overlapping(present, prefix, own_id(stack, prefix)):
        complain(
            f"s3://{bucket} already notifies {other} of changes there, and S3 allows one notification for a "
            "key; attach another prefix, or remove that one first"
        )
        return 2
    if bucket not in stack.allowed_buckets:
        names = ",".join([*stack.allowed_buckets, bucket])
        if not change_parameter(stack, "AllowedBuckets", names, ask=not arguments.yes):
            return 1
    ours = {
        "Id": own_id(stack, prefix),
        "QueueArn": queue_arn(stack),
        "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"],  # the mask of a deleted image is removed
        "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": prefix}]}},
    }
    others = [each for each in present.get("QueueConfigurations", []) if each.get("Id") != ours["Id"]]
    put_notifications(stack, bucket, present | {"QueueConfigurations": [*others, ours]})
    say(f"attached; every upload to s3://{bucket}/{prefix} is segmented from now on")
    say(f"`cytomask backfill s3://{bucket}/{prefix}` segments the images that are there already")
    return 0


def run_detach(stack: "Stack", arguments: Namespace) -> int:
    """Undo `attach`; return 1 if there was nothing to undo."""
    bucket, prefix = split_place(arguments.place)
    present = notifications(stack, bucket)
    queued = present.get("QueueConfigurations", [])
    kept = [each for each in queued if each.get("Id") != own_id(stack, prefix)]
    if len(kept) == len(queued):
        complain(f"s3://{bucket}/{prefix} is not attached to the stack `{stack.name}`")
        return 1
    put_notifications(stack, bucket, present | {"QueueConfigurations": kept})
    say(f"detached; uploads to s3://{bucket}/{prefix} are no longer segmented")
    still = any(str(each.get("Id", "")).startswith(own_id(stack, "")) for each in kept)
    if not still and bucket in stack.allowed_buckets:
        names = ",".join(name for name in stack.allowed_buckets if name != bucket)
        change_parameter(stack, "AllowedBuckets", names, ask=not arguments.yes)
    return 0


def why_not(stack: "Stack", bucket: str) -> str:
    """Say why a bucket cannot be attached; empty if it can."""
    if not bucket:
        return "give s3://bucket or s3://bucket/prefix"
    if bucket in stack.own_buckets:
        return f"s3://{bucket} is the stack's own bucket; only other buckets are attached"
    if stack.s3.list_objects_v2(Bucket=stack.input_bucket, Prefix=f"{bucket}/", MaxKeys=1).get("Contents"):
        return (
            f"s3://{stack.input_bucket} has images under {bucket}/, and the masks of s3://{bucket} would get "
            "the same names; move these images to another folder first"
        )
    region = stack.s3.get_bucket_location(Bucket=bucket).get("LocationConstraint") or "us-east-1"
    if region != stack.s3.meta.region_name:
        return (
            f"s3://{bucket} is in {region}, and a bucket can notify only queues of its own region; deploy a "
            "stack there, or copy the images"
        )
    return ""


def notifications(stack: "Stack", bucket: str) -> Configuration:
    """Return a bucket's notifications in the form that S3 accepts."""
    present: Any = stack.s3.get_bucket_notification_configuration(Bucket=bucket)
    present.pop("ResponseMetadata", None)
    return dict(present)


def put_notifications(stack: "Stack", bucket: str, configuration: Configuration) -> None:
    """Replace the notifications of a bucket."""
    put: Any = stack.s3.put_bucket_notification_configuration
    put(Bucket=bucket, NotificationConfiguration=configuration)


def own_id(stack: "Stack", prefix: str) -> str:
    """Name the stack's notification of a prefix."""
    return f"cytomask {stack.name} {prefix}"


def overlapping(present: Mapping[str, Any], prefix: str, own: str) -> str:
    """Return the target of another notification of uploads or deletions there, or an empty text.

    S3 refuses two notifications of the same event if both their prefixes and their suffixes overlap
    (docs.aws.amazon.com/AmazonS3/latest/userguide/notification-how-to-filtering.html). Ours has no suffix.
    """
    for kind, target in zip(KINDS, TARGETS, strict=True):
        for each in present.get(kind, []):
            rules = each.get("Filter", {}).get("Key", {}).get("FilterRules", [])
            theirs = next((rule["Value"] for rule in rules if rule["Name"].lower() == "prefix"), "")
            same = any(event.startswith(("s3:ObjectCreated", "s3:ObjectRemoved")) for event in each["Events"])
            meets = theirs.startswith(prefix) or prefix.startswith(theirs)
            if same and meets and each.get("Id") != own:
                return str(each[target])
    return ""


def queue_arn(stack: "Stack") -> str:
    """Return the segment queue's ARN."""
    answer = stack.sqs.get_queue_attributes(QueueUrl=stack.segment_queue, AttributeNames=["QueueArn"])
    return answer["Attributes"]["QueueArn"]


def change_parameter(stack: "Stack", name: str, value: str, *, ask: bool) -> bool:
    """Show what a new value of one parameter changes, then update the stack.

    Returns:
        Whether it was updated.

    Raises:
        ClientError: CloudFormation refused the update, for example because another one is running.
    """
    cloudformation = stack.client("cloudformation")
    change = f"cytomask-{time.time_ns()}"
    cloudformation.create_change_set(
        StackName=stack.name,
        ChangeSetName=change,
        UsePreviousTemplate=True,
        Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
        Parameters=[
            {"ParameterKey": each, "ParameterValue": value}
            if each == name
            else {"ParameterKey": each, "UsePreviousValue": True}
            for each in stack.parameters
        ],
    )
    cloudformation.get_waiter("change_set_create_complete").wait(StackName=stack.name, ChangeSetName=change)
    described = cloudformation.describe_change_set(StackName=stack.name, ChangeSetName=change)
    say(f"{name}: {stack.parameters.get(name, '') or '(empty)'} -> {value or '(empty)'}")
    show_changes(described.get("Changes", []))
    if ask and sys.stdin.isatty() and input("Update the stack? (y/n) ").strip().lower() not in ("y", "yes"):
        cloudformation.delete_change_set(StackName=stack.name, ChangeSetName=change)
        complain("nothing was changed")
        return False
    cloudformation.execute_change_set(StackName=stack.name, ChangeSetName=change)
    cloudformation.get_waiter("stack_update_complete").wait(StackName=stack.name)
    return True


def show_changes(changes: Sequence[Mapping[str, Any]]) -> None:
    """Print what an update of the stack does to each resource."""
    for each in changes:
        change = each["ResourceChange"]
        say(f"  {change['Action'].lower()} {change['LogicalResourceId']} ({change['ResourceType']})")
