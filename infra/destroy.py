"""Remove a stack and all it leaves behind: `python -m cytomask.infra.destroy STACK [--endpoint-url URL]`.

CloudFormation refuses to delete buckets that hold objects, keeps the table on purpose, and does not know the
image repository that sam made. This command lists what will be lost, asks for the stack's name, and then
removes everything.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.exceptions import ClientError

from cytomask.infra import session

BATCH = 1000  # objects that S3 deletes in one call
COMPANION = "CompanionStack"  # sam keeps the image repositories in a stack whose name ends like this

Connect = Callable[[str], Any]


@dataclass(frozen=True)
class Belongings:
    """The parts of a stack that deleting it destroys or leaves behind.

    Attributes:
        buckets: bucket name -> number of objects, old versions included.
        table: name of the table and its approximate number of rows.
        companions: sam's stacks that hold the image repositories: stack name -> repositories.
    """

    stack: str
    buckets: dict[str, int]
    table: tuple[str, int] | None
    companions: dict[str, list[str]]

    def lines(self, *, keeps_table: bool) -> Iterator[str]:
        """Yield one line for each thing that will be lost."""
        for name, count in self.buckets.items():
            yield f"bucket {name}: {count} objects, with every old version"
        if self.table:
            name, count = self.table
            yield f"table {name}: about {count} rows" + (
                ", kept because of --keep-table" if keeps_table else ""
            )
        for stack, repositories in self.companions.items():
            yield f"stack {stack}: image repositories {', '.join(repositories) or 'none'}"
        yield f"stack {self.stack}: its functions, queues with every message in them, alarms and log groups"


def main(arguments: Sequence[str] | None = None) -> int:
    """List, ask and remove; return 0, or 1 if the stack does not exist or the user declined."""
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
    remove(connect, found, keeps_table=given.keep_table)
    return 0


def find_belongings(connect: Connect, stack: str) -> Belongings | None:
    """Look up a stack's resources; return None if the stack does not exist."""
    cloudformation, s3 = connect("cloudformation"), connect("s3")
    try:
        resources = list(_resources(cloudformation, stack))
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") != "ValidationError":
            raise
        return None
    tables = [physical for kind, physical in resources if kind == "AWS::DynamoDB::Table"]
    buckets = [physical for kind, physical in resources if kind == "AWS::S3::Bucket"]
    companions = {
        name: [physical for kind, physical in _resources(cloudformation, name) if kind.startswith("AWS::ECR")]
        for name in _stacks(cloudformation)
        if name.startswith(f"{stack}-") and name.endswith(COMPANION)
    }
    count = {name: sum(1 for _ in versions(s3, name)) for name in buckets}
    rows = connect("dynamodb").describe_table(TableName=tables[0])["Table"]["ItemCount"] if tables else 0
    return Belongings(stack, count, (tables[0], rows) if tables else None, companions)


def remove(connect: Connect, found: Belongings, *, keeps_table: bool) -> None:
    """Remove a stack and everything that belongs to it, printing each step."""
    s3, cloudformation = connect("s3"), connect("cloudformation")
    for bucket in found.buckets:
        print(f"emptying {bucket}")
        empty_bucket(s3, bucket)
    for companion, repositories in found.companions.items():
        print(f"deleting {companion}")
        for repository in repositories:
            connect("ecr").delete_repository(repositoryName=repository, force=True)
        _delete_stack(cloudformation, companion)
    print(f"deleting {found.stack}; this takes minutes")
    _delete_stack(cloudformation, found.stack)
    if found.table and not keeps_table:
        print(f"deleting {found.table[0]}")
        try:
            connect("dynamodb").delete_table(TableName=found.table[0])
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") != "ResourceNotFoundException":
                raise
    print("done")


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
    cloudformation.get_waiter("stack_delete_complete").wait(StackName=stack)


def _resources(cloudformation: Any, stack: str) -> Iterator[tuple[str, str]]:
    """Yield the type and the physical name of each of a stack's resources."""
    for page in cloudformation.get_paginator("list_stack_resources").paginate(StackName=stack):
        for each in page["StackResourceSummaries"]:
            yield each["ResourceType"], each.get("PhysicalResourceId", "")


def _stacks(cloudformation: Any) -> Iterator[str]:
    for page in cloudformation.get_paginator("describe_stacks").paginate():
        for each in page["Stacks"]:
            yield each["StackName"]


if __name__ == "__main__":
    sys.exit(main())
