"""`cytomask attach`: make an existing bucket an input of the stack, and undo it (`detach`)."""

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus, unquote_plus

from cytomask.cli.backfill import split_place
from cytomask.cli.console import complain, say
from cytomask.cli.files import count_of
from cytomask.cli.options import Commands, Parser, add_command, on_stack
from cytomask.errors import code_of

if TYPE_CHECKING:
    from cytomask.cli.stack import Stack

EXAMPLES = (
    "cytomask attach s3://lab-images/scans/                 # uploads below scans/ are segmented from now on",
    "cytomask backfill s3://lab-images/scans/               # also segment the images already there",
    "cytomask detach s3://lab-images/scans/",
)
KINDS = ("QueueConfigurations", "TopicConfigurations", "LambdaFunctionConfigurations")
TARGETS = ("QueueArn", "TopicArn", "LambdaFunctionArn")
OLD_REGIONS = {"EU": "eu-west-1"}  # what S3 says of buckets of its first years
NO_BUCKET = "give s3://bucket or s3://bucket/prefix"
LONGEST_ID = 255  # characters of a notification's id, S3's limit

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
    from botocore.exceptions import ClientError  # boto3 takes half a second

    from cytomask.cli.stack import refusal

    bucket, prefix = split_place(arguments.place)
    reason = why_not(stack, bucket, prefix) or conflict(notifications(stack, bucket), stack, bucket, prefix)
    if reason:
        complain(reason)
        return 2
    warn_of_key(stack, bucket)
    if bucket not in stack.allowed_buckets:
        names = ",".join([*stack.allowed_buckets, bucket])
        if not change_parameter(stack, "AllowedBuckets", names, ask=not arguments.yes):
            return 1
    try:
        reason = notify(stack, bucket, prefix)
    except ClientError as error:
        reason = refusal(error)
    if reason:
        complain(reason)
        complain(
            f"the stack may read s3://{bucket} now, but does not hear of uploads; run this again, or take "
            f"the right back with `cytomask detach {arguments.place}`"
        )
        return 2
    say(f"attached; every upload to s3://{bucket}/{prefix} is segmented from now on")
    say(f"`cytomask backfill s3://{bucket}/{prefix}` segments the images that are there already")
    return 0


def run_detach(stack: "Stack", arguments: Namespace) -> int:
    """Undo `attach`; return 2 without a bucket, 1 if there was nothing to undo or the user declined.

    The notification goes first, and then the right to read the bucket unless another prefix needs it. After
    an attempt that broke off, a second one finishes the work.
    """
    bucket, prefix = split_place(arguments.place)
    if not bucket:
        complain(NO_BUCKET)
        return 2
    ours = own_id(stack, prefix)
    ids = [str(each.get("Id")) for each in notifications(stack, bucket).get("QueueConfigurations", [])]
    needed = any(each.startswith(own_id(stack, "")) for each in ids if each != ours)
    permitted = bucket in stack.allowed_buckets
    if ours not in ids and (needed or not permitted):
        complain(f"s3://{bucket}/{prefix} is not attached to the stack `{stack.name}`")
        return 1
    if needed or not permitted:
        forget_notification(stack, bucket, ours)
    else:
        warn_of_waiting(stack, bucket)
        names = ",".join(name for name in stack.allowed_buckets if name != bucket)
        with proposed(stack, "AllowedBuckets", names) as carry_out:
            if not agreed(ask=not arguments.yes):
                return 1
            forget_notification(stack, bucket, ours)
            carry_out()
    say(f"detached; uploads to s3://{bucket}/{prefix} are no longer segmented")
    return 0


def why_not(stack: "Stack", bucket: str, prefix: str) -> str:
    """Say why a bucket cannot be attached; empty if it can."""
    if not bucket:
        return NO_BUCKET
    if "*" in prefix:
        return f"{prefix} has a *, which S3 allows in no prefix of a notification; give the part before it"
    if bucket in stack.own_buckets:
        return f"s3://{bucket} is the stack's own bucket; only other buckets are attached"
    if stack.s3.list_objects_v2(Bucket=stack.input_bucket, Prefix=f"{bucket}/", MaxKeys=1).get("Contents"):
        return (
            f"s3://{stack.input_bucket} has images under {bucket}/, and the masks of s3://{bucket} would get "
            "the same names; move these images to another folder first"
        )
    named = stack.s3.get_bucket_location(Bucket=bucket).get("LocationConstraint") or "us-east-1"
    region = OLD_REGIONS.get(named, named)
    if region != stack.s3.meta.region_name:
        return (
            f"s3://{bucket} is in {region}, and a bucket can notify only queues of its own region; deploy a "
            "stack there, or copy the images"
        )
    return ""


def warn_of_key(stack: "Stack", bucket: str) -> None:
    """Warn of a bucket that encrypts new objects with a KMS key for which the stack may have no right.

    Without a key of its own a bucket uses S3's, or the AWS managed key `aws/s3`, which needs no right.
    """
    from botocore.exceptions import ClientError

    remedy = "add the ARN of the key to the stack's parameter AllowedKeys first, or its images will fail"
    try:
        found = stack.s3.get_bucket_encryption(Bucket=bucket)
    except ClientError as error:
        if code_of(error) == "AccessDenied":
            complain(f"you may not see whether a KMS key encrypts s3://{bucket}; if one does, {remedy}")
        elif code_of(error) != "ServerSideEncryptionConfigurationNotFoundError":
            raise
        return
    known = {key_name(arn) for arn in stack.parameters.get("AllowedKeys", "").split(",")}
    for rule in found["ServerSideEncryptionConfiguration"]["Rules"]:
        key = rule.get("ApplyServerSideEncryptionByDefault", {}).get("KMSMasterKeyID", "")
        if key and key_name(key) not in known and not key.endswith("alias/aws/s3"):
            complain(f"s3://{bucket} is encrypted with the KMS key {key}, which is not allowed; {remedy}")


def key_name(key: str) -> str:
    """Return the id or alias at the end of a key's ARN."""
    return key.rpartition("/")[2]


def notify(stack: "Stack", bucket: str, prefix: str) -> str:
    """Add the stack's notification to the bucket's; return what conflicts with it, or an empty text."""
    present = notifications(stack, bucket)  # read again: others may have changed them during the update
    if reason := conflict(present, stack, bucket, prefix):
        return reason
    ours = {
        "Id": own_id(stack, prefix),
        "QueueArn": queue_arn(stack),
        "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"],  # the mask of a deleted image is removed
        "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": filter_value(prefix)}]}},
    }
    put_notifications(stack, bucket, present, [*without(present, ours["Id"]), ours])
    return ""


def forget_notification(stack: "Stack", bucket: str, own: str) -> None:
    """Remove the notification with this id from the bucket's, if it is there."""
    present = notifications(stack, bucket)
    if any(each.get("Id") == own for each in present.get("QueueConfigurations", [])):
        put_notifications(stack, bucket, present, without(present, own))


def without(present: Configuration, own: object) -> list[Any]:
    """Return the notifications of queues except the one with this id."""
    return [each for each in present.get("QueueConfigurations", []) if each.get("Id") != own]


def warn_of_waiting(stack: "Stack", bucket: str) -> None:
    """Warn how many messages wait: images of this bucket among them will be rejected."""
    counts: Any = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    answer = stack.sqs.get_queue_attributes(QueueUrl=stack.segment_queue, AttributeNames=counts)
    if waiting := sum(map(int, answer["Attributes"].values())):
        complain(
            f"about {count_of(waiting, 'message')} in the queue; images of s3://{bucket} among them will be "
            "rejected. For their masks, detach when the queue is empty (`cytomask resume` counts them)"
        )


def notifications(stack: "Stack", bucket: str) -> Configuration:
    """Return a bucket's notifications in the form that S3 accepts; none if the bucket is gone."""
    from botocore.exceptions import ClientError

    try:
        present: Any = stack.s3.get_bucket_notification_configuration(Bucket=bucket)
    except ClientError as error:
        if code_of(error) != "NoSuchBucket":
            raise
        return {}
    present.pop("ResponseMetadata", None)
    return dict(present)


def put_notifications(stack: "Stack", bucket: str, present: Configuration, of_queues: Sequence[Any]) -> None:
    """Replace a bucket's notifications of queues, and keep its others."""
    put: Any = stack.s3.put_bucket_notification_configuration
    put(Bucket=bucket, NotificationConfiguration=present | {"QueueConfigurations": of_queues})


def own_id(stack: "Stack", prefix: str) -> str:
    """Name the stack's notification of a prefix; a long prefix is hashed."""
    from cytomask.table import fitted

    head = f"cytomask {stack.name} "
    return head + fitted(prefix, LONGEST_ID - len(head))


def filter_value(prefix: str) -> str:
    """Encode a prefix as S3's filters expect it: a space as +, other special characters in percent.

    docs.aws.amazon.com/AmazonS3/latest/userguide/notification-how-to-filtering.html; object-keys.html lists
    the safe characters. A raw `=` was seen to match nothing (github.com/aws/aws-cdk/pull/28012).
    """
    return quote_plus(prefix, safe="/!'()").replace("~", "%7E")


def conflict(present: Configuration, stack: "Stack", bucket: str, prefix: str) -> str:
    """Say which other notification is in the way of ours; empty if none is."""
    if other := overlapping(present, prefix, own_id(stack, prefix)):
        return (
            f"s3://{bucket} already notifies {other} of changes there, and S3 allows one notification for a "
            "key; attach another prefix, remove that one first, or let it pass them on (docs/deploy.md)"
        )
    return ""


def overlapping(present: Mapping[str, Any], prefix: str, own: str) -> str:
    """Return the target of another notification of uploads or deletions there, or an empty text.

    S3 refuses two notifications of the same event if both their prefixes and their suffixes overlap
    (docs.aws.amazon.com/AmazonS3/latest/userguide/notification-how-to-filtering.html). Ours has no suffix.
    """
    for kind, target in zip(KINDS, TARGETS, strict=True):
        for each in present.get(kind, []):
            rules = each.get("Filter", {}).get("Key", {}).get("FilterRules", [])
            encoded = next((rule["Value"] for rule in rules if rule["Name"].lower() == "prefix"), "")
            theirs = unquote_plus(encoded)
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
    """Show what a new value of one parameter changes, ask, and update the stack.

    Returns:
        Whether it was updated.

    Raises:
        ClientError: CloudFormation refused the update, for example because another one is running.
    """
    with proposed(stack, name, value) as carry_out:
        if not agreed(ask=ask):
            return False
        carry_out()
    return True


@contextmanager
def proposed(stack: "Stack", name: str, value: str) -> Iterator[Callable[[], None]]:
    """Show what a new value of one parameter changes; yield the function that updates the stack.

    A proposal that is not carried out is discarded.

    Raises:
        ClientError: CloudFormation refused the update, for example because another one is running.
    """
    cloudformation = stack.client("cloudformation")
    named = {"StackName": stack.name, "ChangeSetName": f"cytomask-{time.time_ns()}"}
    cloudformation.create_change_set(
        **named,
        UsePreviousTemplate=True,
        Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
        Parameters=[
            {"ParameterKey": each, "ParameterValue": value}
            if each == name
            else {"ParameterKey": each, "UsePreviousValue": True}
            for each in stack.parameters
        ],
    )
    done = False

    def carry_out() -> None:
        nonlocal done
        cloudformation.execute_change_set(**named)
        done = True
        cloudformation.get_waiter("stack_update_complete").wait(StackName=stack.name)

    try:
        cloudformation.get_waiter("change_set_create_complete").wait(**named)
        say(f"{name}: {stack.parameters.get(name, '') or '(empty)'} -> {value or '(empty)'}")
        show_changes(cloudformation.describe_change_set(**named).get("Changes", []))
        yield carry_out
    finally:
        if not done:
            cloudformation.delete_change_set(**named)


def agreed(*, ask: bool) -> bool:
    """Ask whether to update the stack; without a terminal, where nobody can answer, it is not updated."""
    if not ask:
        return True
    if not sys.stdin.isatty():
        complain(
            "nothing was changed: there is no terminal to ask on; --yes updates the stack without asking"
        )
        return False
    if input("Update the stack? (y/n) ").strip().lower() not in ("y", "yes"):
        complain("nothing was changed")
        return False
    return True


def show_changes(changes: Sequence[Mapping[str, Any]]) -> None:
    """Print what an update of the stack does to each resource."""
    for each in changes:
        change = each["ResourceChange"]
        say(f"  {change['Action'].lower()} {change['LogicalResourceId']} ({change['ResourceType']})")
