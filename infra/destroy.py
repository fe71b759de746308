"""Remove a stack and all it leaves behind: `python -m cytomask.infra.destroy STACK [--endpoint-url URL]`.

CloudFormation refuses to delete buckets that hold objects, keeps the table on purpose, and knows neither the
image repository that sam made nor the buckets that `cytomask attach` connected. This command lists what will
be lost, asks for the stack's name, and then removes everything. It can be repeated after a removal that broke
off: the stack itself goes last, and whatever is gone already is left out.
"""

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.exceptions import ClientError, WaiterError

from cytomask.errors import code_of
from cytomask.infra import session

BATCH = 1000  # objects that S3 deletes in one call
TRIES = 3  # to delete the stack: an upload or a function still at work may fill a bucket again
PAUSE_SECONDS = 60  # Lambda takes about this long to disable a queue mapping

Connect = Callable[[str], Any]


@dataclass(frozen=True)
class Belongings:
    """The parts of a stack that deleting it destroys or leaves behind.

    Attributes:
        mappings: ids of the mappings from queues to functions.
        buckets: bucket name -> number of objects, old versions included.
        table: name of the table and its approximate number of rows.
        companion: sam's stack that holds the image repositories; None if there is none.
        repositories: names of these repositories.
        queues: ARNs of the queues.
        attached: other buckets that may notify one of these queues: name -> why that cannot be looked up,
            or an empty text.
    """

    stack: str
    mappings: list[str]
    buckets: dict[str, int]
    table: tuple[str, int] | None
    companion: str | None
    repositories: list[str]
    queues: set[str]
    attached: dict[str, str]

    def lines(self, *, keeps_table: bool) -> Iterator[str]:
        """Yield one line for each thing that will be lost."""
        for name, count in self.buckets.items():
            yield f"bucket {name}: {count} objects, with every old version"
        for name, refusal in self.attached.items():
            yield f"the notifications of s3://{name} to this stack; the bucket and its images stay" + (
                f" (they cannot be read: {refusal})" if refusal else ""
            )
        if self.table:
            name, count = self.table
            yield f"table {name}: about {count} rows" + (
                ", kept because of --keep-table" if keeps_table else ""
            )
        if self.companion:
            yield f"stack {self.companion}: image repositories {', '.join(self.repositories) or 'none'}"
        yield f"stack {self.stack}: its functions, queues with every message in them, alarms and log groups"


def main(arguments: Sequence[str] | None = None) -> int:
    """List, ask and remove; return 0, or 1 if there is no such stack, the user declined, or a part stays."""
    parser = argparse.ArgumentParser(prog="make destroy", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("stack", help="name of the stack")
    parser.add_argument("--endpoint-url", help="of an emulator; AWS if left out")
    parser.add_argument("--keep-table", action="store_true", help="keep the rows of all jobs and scores")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    given = parser.parse_args(arguments)

    def connect(service: str) -> Any:
        if given.endpoint_url:
            return session.client(service, given.endpoint_url)
        make: Any = boto3.client  # typed by literal names only
        return make(service)

    found = find_belongings(connect, given.stack)
    if found is None:
        print(f"there is no stack {given.stack} in this account and region", file=sys.stderr)
        return 1
    print("This will be lost for good:")
    for line in found.lines(keeps_table=given.keep_table):
        print(f"  {line}")
    if not given.yes and input(f"Type the stack's name to go on ({given.stack}): ").strip() != given.stack:
        print("nothing was removed", file=sys.stderr)
        return 1
    try:
        staying = remove(connect, found, keeps_table=given.keep_table)
    except RuntimeError as error:
        print(f"{error}; run the same command again", file=sys.stderr)
        return 1
    for line in staying:
        print(line, file=sys.stderr)
    return 1 if staying else 0


def find_belongings(connect: Connect, stack: str) -> Belongings | None:
    """Look up what is left of a stack; return None if the stack does not exist."""
    cloudformation, s3 = connect("cloudformation"), connect("s3")
    described = _describe(cloudformation, stack)
    if described is None:
        return None
    resources = list(_resources(cloudformation, stack))

    def of_kind(kind: str) -> list[str]:
        return [physical for each, physical in resources if each == kind]

    buckets = {}
    for name in of_kind("AWS::S3::Bucket"):
        with _unless("NoSuchBucket"):
            buckets[name] = sum(1 for _ in versions(s3, name))
    table = None
    for name in of_kind("AWS::DynamoDB::Table"):
        with _unless("ResourceNotFoundException"):
            table = name, connect("dynamodb").describe_table(TableName=name)["Table"]["ItemCount"]
    _, _, _, region, account, _ = described["StackId"].split(":", 5)
    queues = {
        f"arn:aws:sqs:{region}:{account}:{url.rpartition('/')[2]}" for url in of_kind("AWS::SQS::Queue")
    }
    companion = companion_of(stack)
    has_images = _describe(cloudformation, companion) is not None
    return Belongings(
        stack,
        mappings=of_kind("AWS::Lambda::EventSourceMapping"),
        buckets=buckets,
        table=table,
        companion=companion if has_images else None,
        repositories=[
            physical
            for kind, physical in (_resources(cloudformation, companion) if has_images else ())
            if kind == "AWS::ECR::Repository"
        ],
        queues=queues,
        attached=dict(_attached(s3, described.get("Parameters", ()), queues)),
    )


def companion_of(stack: str) -> str:
    """Name the stack in which sam keeps a stack's image repositories.

    As in samcli/lib/bootstrap/companion_stack/data_types.py. A prefix would not do: the name of another
    stack's companion may begin alike.
    """
    digits = hashlib.md5(stack.encode(), usedforsecurity=False).hexdigest()
    return f"{stack[:104]}-{digits[:8]}-CompanionStack"


def _attached(
    s3: Any, parameters: Sequence[dict[str, str]], queues: Collection[str]
) -> Iterator[tuple[str, str]]:
    """Yield each allowed bucket that notifies one of the queues, or whose notifications cannot be read."""
    allowed = next(
        (each["ParameterValue"] for each in parameters if each["ParameterKey"] == "AllowedBuckets"), ""
    )
    for bucket in filter(None, allowed.split(",")):
        try:
            present = s3.get_bucket_notification_configuration(Bucket=bucket)
        except ClientError as error:
            if code_of(error) != "NoSuchBucket":
                yield bucket, code_of(error)
            continue
        if any(each["QueueArn"] in queues for each in present.get("QueueConfigurations", ())):
            yield bucket, ""


def remove(connect: Connect, found: Belongings, *, keeps_table: bool) -> list[str]:
    """Remove a stack and everything that belongs to it, printing each step.

    Returns:
        A sentence for each part that you must remove by hand.

    Raises:
        RuntimeError: an object or the stack could not be deleted; the message names what is left.
    """
    staying = []
    stop(connect("lambda"), found.mappings)
    for bucket in found.attached:
        print(f"removing the notifications of s3://{bucket}")
        try:
            detach(connect("s3"), bucket, found.queues)
        except ClientError as error:
            staying.append(
                f"s3://{bucket} may still notify {found.stack}, and S3 then refuses every change of its "
                f"notifications ({code_of(error)}); whoever owns the bucket must remove that notification"
            )
    if found.companion:
        print(f"deleting {found.companion}")
        for repository in found.repositories:
            with _unless("RepositoryNotFoundException"):
                connect("ecr").delete_repository(repositoryName=repository, force=True)
        _delete_stack(connect("cloudformation"), found.companion)
    if found.table and not keeps_table:
        print(f"deleting {found.table[0]}")
        with _unless("ResourceNotFoundException"):
            connect("dynamodb").delete_table(TableName=found.table[0])
    for again in range(TRIES):
        for bucket in found.buckets:
            print(f"emptying {bucket}")
            with _unless("NoSuchBucket"):
                empty_bucket(connect("s3"), bucket)
        print(f"deleting {found.stack}; this takes minutes")
        try:
            _delete_stack(connect("cloudformation"), found.stack)
            break
        except RuntimeError as error:
            if again == TRIES - 1:
                raise
            print(error)
    print("done")
    return staying


def stop(functions: Any, mappings: Collection[str]) -> None:
    """Disable the mappings from queues to functions, so that no message fills a bucket again."""
    print("stopping the functions")
    for uuid in mappings:
        with _unless("ResourceNotFoundException"):
            functions.update_event_source_mapping(UUID=uuid, Enabled=False)
    end = time.monotonic() + PAUSE_SECONDS
    for uuid in mappings:
        with _unless("ResourceNotFoundException"):
            while functions.get_event_source_mapping(UUID=uuid)["State"] != "Disabled":
                if time.monotonic() > end:
                    return  # the stack is deleted in several tries
                time.sleep(1)


def detach(s3: Any, bucket: str, queues: Collection[str]) -> None:
    """Remove a bucket's notifications to these queues and keep all others."""
    present = s3.get_bucket_notification_configuration(Bucket=bucket)
    present.pop("ResponseMetadata", None)
    kept = [each for each in present.get("QueueConfigurations", ()) if each["QueueArn"] not in queues]
    s3.put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration=present | {"QueueConfigurations": kept}
    )


def empty_bucket(s3: Any, bucket: str) -> None:
    """Delete every object of a bucket, with every old version and delete marker."""
    batch: list[dict[str, str]] = []
    for version in versions(s3, bucket):
        batch.append(version)
        if len(batch) == BATCH:
            _delete_objects(s3, bucket, batch)
            batch = []
    if batch:
        _delete_objects(s3, bucket, batch)


def versions(s3: Any, bucket: str) -> Iterator[dict[str, str]]:
    """Yield every version and delete marker of a bucket, as `delete_objects` takes them."""
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        for each in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
            yield {"Key": each["Key"], "VersionId": each["VersionId"]}


def _delete_objects(s3: Any, bucket: str, batch: list[dict[str, str]]) -> None:
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": batch, "Quiet": True})
    for error in answer.get("Errors", ()):
        raise RuntimeError(f"s3://{bucket}/{error['Key']} was not deleted: {error['Message']}")


def _delete_stack(cloudformation: Any, stack: str) -> None:
    cloudformation.delete_stack(StackName=stack)
    try:
        cloudformation.get_waiter("stack_delete_complete").wait(StackName=stack)
    except WaiterError as error:
        pages = cloudformation.get_paginator("list_stack_resources").paginate(StackName=stack)
        reasons = [
            f"{each['LogicalResourceId']} ({each.get('ResourceStatusReason', 'no reason given')})"
            for page in pages
            for each in page["StackResourceSummaries"]
            if each["ResourceStatus"] == "DELETE_FAILED"
        ]
        raise RuntimeError(f"{stack} was not deleted: {', '.join(reasons) or error}") from error


def _describe(cloudformation: Any, stack: str) -> dict[str, Any] | None:
    """Return CloudFormation's description of a stack, or None if it does not exist."""
    try:
        (found,) = cloudformation.describe_stacks(StackName=stack)["Stacks"]
    except ClientError as error:
        if code_of(error) != "ValidationError":
            raise
        return None
    return dict(found)


def _resources(cloudformation: Any, stack: str) -> Iterator[tuple[str, str]]:
    """Yield the type and the physical name of each resource of a stack that is there."""
    for page in cloudformation.get_paginator("list_stack_resources").paginate(StackName=stack):
        for each in page["StackResourceSummaries"]:
            if each["ResourceStatus"] != "DELETE_COMPLETE" and each.get("PhysicalResourceId"):
                yield each["ResourceType"], each["PhysicalResourceId"]


@contextmanager
def _unless(gone: str) -> Iterator[None]:
    """Ignore the error that says that a resource is gone already."""
    try:
        yield
    except ClientError as error:
        if code_of(error) != gone:
            raise


if __name__ == "__main__":
    sys.exit(main())
