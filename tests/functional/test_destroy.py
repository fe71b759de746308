"""Destroy a stack in the emulated account."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cytomask.infra import destroy, session
from cytomask.infra.destroy import companion_of, empty_bucket, main, versions
from cytomask.infra.emulator import EmulatedStack, emulated_stack
from cytomask.infra.session import REGION

pytestmark = pytest.mark.slow
OTHER = "cytomask-test-1a2b3c4d-CompanionStack"  # of a stack whose name begins alike
LABS = ("lab-a", "lab-b", "lab-gone")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[EmulatedStack]:
    """A stack with one object in each of two buckets."""
    parameters = {"InputVersioning": "yes", "AllowedBuckets": ",".join(LABS)}
    with emulated_stack(tmp_path, parameters=parameters) as stack:
        for output in ("OutputBucketName", "GroundTruthBucketName"):
            stack.client("s3").put_object(Bucket=stack.outputs[output], Key="a/b.png", Body=b"png")
        yield stack


def exists(stack: EmulatedStack, bucket: str) -> bool:
    try:
        stack.client("s3").head_bucket(Bucket=bucket)
    except ClientError:
        return False
    return True


def make_companion(stack: EmulatedStack, name: str, repository: str) -> None:
    """Make a stack as sam does for its image repositories."""
    resource = {"Type": "AWS::ECR::Repository", "Properties": {"RepositoryName": repository}}
    stack.client("cloudformation").create_stack(
        StackName=name, TemplateBody=json.dumps({"Resources": {"Repository": resource}})
    )


def attach(stack: EmulatedStack, bucket: str) -> None:
    """Let a new bucket notify the stack, and a queue of its own."""
    s3, sqs = stack.client("s3"), stack.client("sqs")
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    own = sqs.create_queue(QueueName=f"{bucket}-own")["QueueUrl"]
    wanted = []
    for prefix, url in (("scans/", stack.outputs["SegmentQueueUrl"]), ("own/", own)):
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        rules = [{"Name": "prefix", "Value": prefix}]
        wanted.append(
            {"QueueArn": arn, "Events": ["s3:ObjectCreated:*"], "Filter": {"Key": {"FilterRules": rules}}}
        )
    s3.put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={"QueueConfigurations": wanted}
    )


def notified(stack: EmulatedStack, bucket: str) -> list[str]:
    found = stack.client("s3").get_bucket_notification_configuration(Bucket=bucket)
    return [each["QueueArn"].rpartition(":")[2] for each in found.get("QueueConfigurations", [])]


def test_everything_goes_once_the_stacks_name_was_typed(
    running: EmulatedStack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One test covers all steps, because starting a stack takes seconds."""
    s3, images = running.client("s3"), running.outputs["InputBucketName"]
    for body in (b"one", b"two"):
        s3.put_object(Bucket=images, Key="a.json", Body=body)
    s3.delete_object(Bucket=images, Key="a.json")
    assert len(list(versions(s3, images))) == 3  # two versions and a delete marker
    empty_bucket(s3, images)
    assert list(versions(s3, images)) == []
    make_companion(running, companion_of("cytomask"), "cytomaskaaaaaaaa/own")
    make_companion(running, OTHER, "cytomasktest1a2b3c4d/other")
    for bucket in LABS[:2]:
        attach(running, bucket)

    assert main(["another", "--endpoint-url", running.endpoint]) == 1
    assert "there is no stack another" in capsys.readouterr().err

    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))
    assert main(["cytomask", "--endpoint-url", running.endpoint]) == 1
    assert "nothing was removed" in capsys.readouterr().err
    assert exists(running, running.outputs["OutputBucketName"])

    refuse_to_detach(monkeypatch, "lab-b")
    monkeypatch.setattr("sys.stdin", io.StringIO("cytomask\n"))
    assert main(["cytomask", "--endpoint-url", running.endpoint]) == 1
    captured = capsys.readouterr()
    assert f"bucket {running.outputs['OutputBucketName']}: 1 objects" in captured.out
    assert f"table {running.outputs['JobsTableName']}: about " in captured.out
    assert "the notifications of s3://lab-a to this stack; the bucket and its images stay" in captured.out
    assert OTHER not in captured.out
    assert captured.err.startswith("s3://lab-b may still notify cytomask, and S3 then refuses every change")
    assert "lab-gone" not in captured.out + captured.err
    for output in ("OutputBucketName", "InputBucketName"):
        assert not exists(running, running.outputs[output])
    assert running.outputs["JobsTableName"] not in running.client("dynamodb").list_tables()["TableNames"]
    assert notified(running, "lab-a") == ["lab-a-own"]
    assert notified(running, "lab-b") == ["cytomask-segment", "lab-b-own"]
    repositories = running.client("ecr").describe_repositories()["repositories"]
    assert [each["repositoryName"] for each in repositories] == ["cytomasktest1a2b3c4d/other"]


def refuse_to_detach(patch: pytest.MonkeyPatch, refusing: str) -> None:
    """Let one bucket refuse a change of its notifications, as to a deployer without a right on it."""
    detach = destroy.detach

    def refuse(s3: Any, bucket: str, queues: set[str]) -> None:
        if bucket == refusing:
            raise ClientError({"Error": {"Code": "AccessDenied"}}, "PutBucketNotificationConfiguration")
        detach(s3, bucket, queues)

    patch.setattr(destroy, "detach", refuse)


def test_a_removal_that_broke_off_is_repeated_while_messages_wait(
    running: EmulatedStack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    s3 = running.client("s3")
    truths, masks = running.outputs["GroundTruthBucketName"], running.outputs["OutputBucketName"]
    empty_bucket(s3, truths)
    s3.delete_bucket(Bucket=truths)
    running.client("dynamodb").delete_table(TableName=running.outputs["JobsTableName"])
    delete = destroy._delete_stack
    tries = []

    def fail_once(cloudformation: Any, stack: str) -> None:
        """Refuse a bucket that a function still at work has filled again; ministack would delete it."""
        tries.append(states(running))
        left = list(versions(s3, masks))
        if len(tries) == 1:
            s3.put_object(Bucket=masks, Key="late.png", Body=b"png")
            raise RuntimeError(f"{stack} was not deleted: OutputBucket (The bucket is not empty)")
        assert left == []
        delete(cloudformation, stack)

    monkeypatch.setattr(destroy, "_delete_stack", fail_once)
    assert states(running) == {"Enabled"}
    assert main(["cytomask", "--endpoint-url", running.endpoint, "--yes"]) == 0
    assert tries == [{"Disabled"}, {"Disabled"}]
    printed = capsys.readouterr().out
    assert "table" not in printed
    assert truths not in printed
    assert "was not deleted: OutputBucket (The bucket is not empty)" in printed
    assert not exists(running, masks)


def states(stack: EmulatedStack) -> set[str]:
    """Return the states of all mappings from queues to functions."""
    found = session.client("lambda", stack.endpoint).list_event_source_mappings()["EventSourceMappings"]
    return {each["State"] for each in found}
