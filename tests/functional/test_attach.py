"""`cytomask attach` and `detach` on faked AWS: what they write, when they ask, and what they undo."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from factories import MODELS, REGION
from functions_on_moto import SegmentStack

from cytomask.cli.main import main
from cytomask.cli.stack import Stack

LAB = "lab-images"
PLACE = f"s3://{LAB}/scans/"


@dataclass
class Updates:
    """Stands for CloudFormation: proposes and carries out updates, and acts while one is under way."""

    carried_out: list[str] = field(default_factory=list)
    proposed: dict[str, str] = field(default_factory=dict)
    meanwhile: Callable[[], object] = str

    def create_change_set(self, *, ChangeSetName: str, Parameters: Any, **_: Any) -> None:
        self.proposed[ChangeSetName] = next(
            each["ParameterValue"] for each in Parameters if "ParameterValue" in each
        )

    def delete_change_set(self, *, ChangeSetName: str, **_: Any) -> None:
        del self.proposed[ChangeSetName]

    def execute_change_set(self, *, ChangeSetName: str, **_: Any) -> None:
        self.carried_out.append(self.proposed.pop(ChangeSetName))
        self.meanwhile()

    def describe_change_set(self, **_: Any) -> dict[str, Any]:
        return {}

    def get_waiter(self, _: str) -> Any:
        return type("Waiter", (), {"wait": lambda *_, **__: None})()


@pytest.fixture
def updates() -> Updates:
    return Updates()


@pytest.fixture
def served(
    stack: SegmentStack, connected: Stack, updates: Updates, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Let the stack serve these buckets; beside it are a bucket of the lab, and somebody who agrees."""
    monkeypatch.setattr("sys.stdin", Terminal("y\n" * 9))
    stack.s3.create_bucket(Bucket=LAB, CreateBucketConfiguration={"LocationConstraint": REGION})

    def serve(buckets: str, **parameters: str) -> None:
        found = replace(
            connected,
            parameters={"AllowedBuckets": buckets} | parameters,
            client=lambda _: updates,
            models_bucket=MODELS,
        )
        monkeypatch.setattr(Stack, "connect", classmethod(lambda *_: found))

    return serve


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextmanager
def answering(answer: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdin", Terminal(f"{answer}\n"))
        yield


def notified(stack: SegmentStack, bucket: str = LAB) -> dict[str, str]:
    """Return the prefix of each notification of a bucket, by id."""
    present = stack.s3.get_bucket_notification_configuration(Bucket=bucket)
    return {
        each["Id"]: each["Filter"]["Key"]["FilterRules"][0]["Value"]
        for each in present.get("QueueConfigurations", [])
    }


def add_notification(stack: SegmentStack, name: str, prefix: str, bucket: str = LAB) -> None:
    """Add a notification of somebody else."""
    present = stack.s3.get_bucket_notification_configuration(Bucket=bucket)
    theirs = {
        "Id": name,
        "QueueArn": f"arn:aws:sqs:{REGION}:123456789012:cytomask-evaluation",
        "Events": ["s3:ObjectCreated:*"],
        "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": prefix}]}},
    }
    others = present.get("QueueConfigurations", [])
    stack.s3.put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [*others, theirs]}
    )


def test_without_a_terminal_the_stack_is_updated_only_if_that_is_said(
    stack: SegmentStack,
    served: Callable[[str], None],
    updates: Updates,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    served("")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert main(["attach", PLACE]) == 1
    assert "nothing was changed: there is no terminal to ask on; --yes" in capsys.readouterr().err
    assert (notified(stack), updates.carried_out, updates.proposed) == ({}, [], {})
    assert main(["attach", PLACE, "--yes"]) == 0
    assert updates.carried_out == [LAB]


def test_a_notification_added_during_the_update_is_kept(
    stack: SegmentStack, served: Callable[[str], None], updates: Updates
) -> None:
    served("")
    updates.meanwhile = lambda: add_notification(stack, "theirs", "elsewhere/")
    assert main(["attach", PLACE]) == 0
    assert notified(stack) == {"theirs": "elsewhere/", "cytomask cytomask scans/": "scans/"}


def test_a_notification_added_while_detach_asks_is_kept(
    stack: SegmentStack, served: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(_: str) -> str:
        add_notification(stack, "theirs", "elsewhere/")
        return "y"

    served(LAB)
    assert main(["attach", PLACE]) == 0
    with answering("", monkeypatch):
        monkeypatch.setattr("builtins.input", answer)
        assert main(["detach", PLACE]) == 0
    assert notified(stack) == {"theirs": "elsewhere/"}


def test_the_right_to_a_bucket_that_is_gone_can_be_taken_back(
    stack: SegmentStack, served: Callable[[str], None], updates: Updates
) -> None:
    served(LAB)
    stack.s3.delete_bucket(Bucket=LAB)
    assert main(["detach", PLACE]) == 0
    assert updates.carried_out == [""]


def test_an_overlap_that_came_up_during_the_update_is_refused(
    stack: SegmentStack,
    served: Callable[[str], None],
    updates: Updates,
    capsys: pytest.CaptureFixture[str],
) -> None:
    served("")
    updates.meanwhile = lambda: add_notification(stack, "theirs", "scans/today/")
    assert main(["attach", PLACE]) == 2
    said = capsys.readouterr().err
    assert "already notifies arn:aws:sqs" in said
    assert f"`cytomask detach {PLACE}`" in said
    assert notified(stack) == {"theirs": "scans/today/"}


def test_detach_asks_before_it_changes_anything(
    stack: SegmentStack,
    served: Callable[[str], None],
    updates: Updates,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    served(LAB)
    assert main(["attach", PLACE]) == 0
    with answering("n", monkeypatch):
        assert main(["detach", PLACE]) == 1
    captured = capsys.readouterr()
    assert "nothing was changed" in captured.err and "detached" not in captured.out
    assert list(notified(stack)) == ["cytomask cytomask scans/"]
    assert (updates.proposed, updates.carried_out) == ({}, [])
    with answering("y", monkeypatch):
        assert main(["detach", PLACE]) == 0
    assert notified(stack) == {}
    assert updates.carried_out == [""]


def test_a_right_that_a_broken_attach_left_behind_can_be_taken_back(
    stack: SegmentStack,
    served: Callable[[str], None],
    updates: Updates,
    capsys: pytest.CaptureFixture[str],
) -> None:
    served("")
    stack.wire.fail("PutBucketNotificationConfiguration", "AccessDenied", 403)
    assert main(["attach", PLACE]) == 2
    said = capsys.readouterr().err
    assert "PutBucketNotificationConfiguration was refused: injected" in said
    assert f"take the right back with `cytomask detach {PLACE}`" in said
    served(LAB)
    assert main(["detach", PLACE]) == 0
    assert updates.carried_out == [LAB, ""]
    served("")
    assert main(["detach", PLACE]) == 1
    assert "is not attached" in capsys.readouterr().err


def test_the_right_stays_while_another_prefix_is_attached(
    stack: SegmentStack, served: Callable[[str], None], updates: Updates
) -> None:
    served(LAB)
    assert main(["attach", PLACE]) == 0
    assert main(["attach", f"s3://{LAB}/raw/"]) == 0
    assert main(["detach", PLACE]) == 0
    assert notified(stack) == {"cytomask cytomask raw/": "raw/"}
    assert updates.carried_out == []
    assert main(["detach", PLACE]) == 1


def test_detach_says_how_many_messages_wait(
    stack: SegmentStack, served: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    served(LAB)
    assert main(["attach", PLACE]) == 0
    stack.take_messages()  # moto's test of the notification
    queue = stack.sqs.get_queue_url(QueueName="cytomask-segment")["QueueUrl"]
    for _ in range(2):
        stack.sqs.send_message(QueueUrl=queue, MessageBody="{}")
    stack.sqs.receive_message(QueueUrl=queue)
    assert main(["detach", PLACE]) == 0
    said = capsys.readouterr().err
    assert f"about 2 messages in the queue; images of s3://{LAB} among them will be rejected" in said


@pytest.mark.parametrize(
    ("prefix", "value"),
    [
        ("plate 1/ü+%/", "plate+1/%C3%BC%2B%25/"),
        ("day=1/a~b/", "day%3D1/a%7Eb/"),
        ("it's (1)!/a-b_c.d/", "it's+(1)!/a-b_c.d/"),
    ],
)
def test_a_prefix_is_encoded_as_s3_compares_it(
    stack: SegmentStack, served: Callable[[str], None], prefix: str, value: str
) -> None:
    served(LAB)
    assert main(["attach", f"s3://{LAB}/{prefix}"]) == 0
    assert notified(stack) == {f"cytomask cytomask {prefix}": value}
    assert main(["detach", f"s3://{LAB}/{prefix}"]) == 0
    assert notified(stack) == {}


@pytest.mark.parametrize("command", ["attach", "detach"])
def test_a_place_without_a_bucket_is_refused(
    served: Callable[[str], None], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    served(LAB)
    assert main([command, "lab-images"]) == 2
    assert "give s3://bucket" in capsys.readouterr().err


def test_a_prefix_with_a_star_is_refused(
    served: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    served(LAB)
    assert main(["attach", f"s3://{LAB}/*.tif"]) == 2
    assert "has a *, which S3 allows in no prefix" in capsys.readouterr().err


def test_the_models_bucket_is_the_stacks_own(
    served: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    served("")
    assert main(["attach", f"s3://{MODELS}/"]) == 2
    assert "is the stack's own bucket" in capsys.readouterr().err


def test_a_long_prefix_has_an_id_that_s3_takes(stack: SegmentStack, served: Callable[[str], None]) -> None:
    served(LAB)
    prefix = f"{'ü' * 150}/"
    assert main(["attach", f"s3://{LAB}/{prefix}"]) == 0
    (name,) = notified(stack)
    assert len(name) <= 255 and name.startswith("cytomask cytomask ")
    assert main(["detach", f"s3://{LAB}/{prefix}"]) == 0
    assert notified(stack) == {}


def test_a_bucket_of_s3s_first_years_is_in_ireland(
    served: Callable[[str], None],
    connected: Stack,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    served(LAB)
    monkeypatch.setattr(connected.s3, "get_bucket_location", lambda **_: {"LocationConstraint": "EU"})
    assert main(["attach", PLACE]) == 2
    assert "is in eu-west-1, and a bucket can notify" in capsys.readouterr().err


KEY = f"arn:aws:kms:{REGION}:123456789012:key/0987dcba-09fe-87dc-65ba-ab0987654321"


def encrypt(stack: SegmentStack, **by_default: str) -> None:
    rule: Any = {"ApplyServerSideEncryptionByDefault": by_default}
    stack.s3.put_bucket_encryption(Bucket=LAB, ServerSideEncryptionConfiguration={"Rules": [rule]})


@pytest.mark.parametrize("algorithm", ["aws:kms", "aws:kms:dsse"])
@pytest.mark.parametrize("key", [KEY, KEY.rpartition("/")[2], "alias/lab"])
def test_a_bucket_under_a_key_that_the_stack_may_not_use_is_attached_with_a_warning(
    stack: SegmentStack,
    served: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
    algorithm: str,
    key: str,
) -> None:
    served("")
    encrypt(stack, SSEAlgorithm=algorithm, KMSMasterKeyID=key)
    assert main(["attach", PLACE]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"s3://{LAB} is encrypted with the KMS key {key}, which is not allowed; add the ARN"
    )
    assert "AllowedKeys" in line


@pytest.mark.parametrize(
    ("by_default", "allowed_keys"),
    [
        ({}, ""),
        ({"SSEAlgorithm": "AES256"}, ""),
        ({"SSEAlgorithm": "aws:kms"}, ""),
        ({"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": f"arn:aws:kms:{REGION}:1:alias/aws/s3"}, ""),
        ({"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": KEY}, f"{KEY[:-1]}2,{KEY}"),
        ({"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": KEY.rpartition("/")[2]}, KEY),
    ],
    ids=["none", "of S3", "of AWS", "of AWS by its alias", "allowed", "allowed by its id"],
)
def test_a_bucket_whose_images_the_stack_may_decrypt_is_attached_without_a_word(
    stack: SegmentStack,
    served: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    by_default: dict[str, str],
    allowed_keys: str,
) -> None:
    served("", AllowedKeys=allowed_keys)
    if by_default:
        encrypt(stack, **by_default)
    assert main(["attach", PLACE]) == 0
    assert capsys.readouterr().err == ""


def test_without_the_right_to_look_the_key_is_left_to_the_user(
    stack: SegmentStack, served: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    served("")
    stack.wire.fail("GetBucketEncryption", "AccessDenied", 403)
    assert main(["attach", PLACE]) == 0
    assert f"you may not see whether a KMS key encrypts s3://{LAB}; if one does" in capsys.readouterr().err
