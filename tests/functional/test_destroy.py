"""Destroy a stack in the emulated account."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from cytomask.infra.destroy import empty_bucket, main, versions
from cytomask.infra.emulator import EmulatedStack, emulated_stack

pytestmark = pytest.mark.slow


@pytest.fixture
def running(tmp_path: Path) -> Iterator[EmulatedStack]:
    """A stack with one object in each of two buckets."""
    with emulated_stack(tmp_path, parameters={"InputVersioning": "yes"}) as stack:
        for output in ("OutputBucketName", "GroundTruthBucketName"):
            stack.client("s3").put_object(Bucket=stack.outputs[output], Key="a/b.png", Body=b"png")
        yield stack


def exists(stack: EmulatedStack, bucket: str) -> bool:
    try:
        stack.client("s3").head_bucket(Bucket=stack.outputs[bucket])
    except ClientError:
        return False
    return True


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

    assert main(["another", "--endpoint-url", running.endpoint]) == 1
    assert "there is no stack another" in capsys.readouterr().err

    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))
    assert main(["cytomask", "--endpoint-url", running.endpoint]) == 1
    assert "nothing was removed" in capsys.readouterr().err
    assert exists(running, "OutputBucketName")

    monkeypatch.setattr("sys.stdin", io.StringIO("cytomask\n"))
    assert main(["cytomask", "--endpoint-url", running.endpoint]) == 0
    printed = capsys.readouterr().out
    assert f"bucket {running.outputs['OutputBucketName']}: 1 objects" in printed
    assert f"table {running.outputs['JobsTableName']}: about " in printed
    assert not exists(running, "OutputBucketName")
    assert not exists(running, "InputBucketName")
    assert running.outputs["JobsTableName"] not in running.client("dynamodb").list_tables()["TableNames"]
