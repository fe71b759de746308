"""The emulated stack forwards events, handles failures and leaves nothing running."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from recording_handler import UNREADABLE

from cytomask.infra import emulator
from cytomask.infra.children import ROOT, ChildFailed, listening_socket
from cytomask.infra.emulator import EmulatedStack, StackFailed, emulated_stack
from cytomask.infra.front import Context, invoke
from cytomask.infra.template import load_template, routes

pytestmark = pytest.mark.long
RECORDING = "tests.functional.recording_handler:handler"
HANDLERS = dict.fromkeys(emulator.HANDLERS, RECORDING)
VISIBILITY_SECONDS = 2
RECEIVES = 2
TIMEOUT_SECONDS = 60
PARAMETERS = {
    "SegmentTimeout": str(TIMEOUT_SECONDS),
    "VisibilityTimeout": str(VISIBILITY_SECONDS),
    "MaxReceiveCount": str(RECEIVES),
}

HOLDING_A_STACK = """
import json, sys
from pathlib import Path
from cytomask.infra.emulator import emulated_stack

with emulated_stack(Path(sys.argv[1]), handlers=json.loads(sys.argv[2])) as stack:
    answer = stack.client("lambda").invoke(FunctionName="cytomask-segment", Payload=b"{}")
    print(json.dumps([stack.endpoint, json.load(answer["Payload"])["process"]]), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedStack]:
    with emulated_stack(
        tmp_path_factory.mktemp("stack"), parameters=PARAMETERS, handlers=HANDLERS
    ) as running:
        # A test that makes the functions fail would otherwise use up the deliveries of these messages.
        eventually(lambda: len(announced_buckets(running)) == 2)
        yield running


def test_an_upload_reaches_the_handler_under_its_key_as_s3_encodes_it(stack: EmulatedStack) -> None:
    bucket = stack.outputs["InputBucketName"]
    answer = stack.client("s3").put_object(Bucket=bucket, Key="plate 1/a+b ü.tif", Body=b"pixels")
    (record,) = eventually(lambda: [body for body in delivered(stack) if key_of(body).startswith("plate")])
    notification = json.loads(record)["Records"][0]
    assert notification["eventName"] == "ObjectCreated:Put"
    assert notification["s3"]["bucket"]["name"] == bucket
    assert notification["s3"]["object"]["key"] == "plate+1/a%2Bb+%C3%BC.tif"
    assert notification["s3"]["object"]["eTag"] == answer["ETag"].strip('"')


def test_the_test_events_of_s3_arrive_when_the_stack_is_made(stack: EmulatedStack) -> None:
    assert announced_buckets(stack) == {
        stack.outputs["InputBucketName"]: "cytomask-segment",
        stack.outputs["GroundTruthBucketName"]: "cytomask-evaluate",
    }


def test_only_the_failed_record_is_tried_again_and_goes_whole_to_the_consumer_of_dead_letters(
    stack: EmulatedStack,
) -> None:
    sqs = stack.client("sqs")
    bodies = {"good": '{"image": "s3://b/fine+1 ü.tif"}', "bad": '{"image": "s3://b/fail+1 ü.tif"}'}
    entries = [{"Id": name, "MessageBody": body} for name, body in bodies.items()]
    sqs.send_message_batch(QueueUrl=stack.outputs["SegmentQueueUrl"], Entries=entries)
    eventually(lambda: bodies["bad"] in delivered(stack, "cytomask-failures"))
    assert delivered(stack, "cytomask-segment").count(bodies["bad"]) == RECEIVES
    assert delivered(stack, "cytomask-segment").count(bodies["good"]) == 1


def test_a_direct_invocation_gets_the_handler_s_answer(stack: EmulatedStack) -> None:
    answer = invoked(stack, {"image": "s3://b/ü.tif"})
    assert answer["function_name"] == stack.outputs["SegmentFunctionName"] == "cytomask-segment"
    assert answer["arn"].endswith(":eu-central-1:000000000000:function:cytomask-segment")
    assert answer["memory_mb"] == "3008"
    assert 800 * TIMEOUT_SECONDS < answer["remaining_ms"] <= 1000 * TIMEOUT_SECONDS


def test_the_handler_s_environment_is_the_template_s_and_leads_to_the_emulator(stack: EmulatedStack) -> None:
    environment = invoked(stack, {})["environment"]
    assert environment["INPUT_BUCKET"] == stack.outputs["InputBucketName"]
    assert environment["JOBS_TABLE"] == stack.outputs["JobsTableName"]
    assert environment["EVALUATION_QUEUE_URL"] == stack.outputs["EvaluationQueueUrl"]
    assert environment["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "3008"
    assert environment["AWS_ENDPOINT_URL"] == stack.endpoint


def test_nothing_of_the_user_s_aws_settings_reaches_client_or_handler(
    stack: EmulatedStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "one that is not there")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert stack.client("sts").get_caller_identity()["Account"] == "000000000000"
    assert not {"AWS_PROFILE", "HTTP_PROXY"} & set(invoked(stack, {})["environment"])


def test_a_handlers_exception_becomes_lambdas_error_and_a_log_line(
    stack: EmulatedStack,
) -> None:
    answer = stack.client("lambda").invoke(
        FunctionName="cytomask-segment", Payload=json.dumps({"raise": "no space on device"})
    )
    assert answer["FunctionError"] == "Unhandled"
    assert b"no space on device" in answer["Payload"].read()
    (line,) = [line for line in log_lines(stack) if line.get("errorMessage") == "no space on device"]
    assert (line["message"], line["level"], line["errorType"]) == (
        "invocation_failed",
        "ERROR",
        "ValueError",
    )
    assert "recording_handler.py" in "".join(line["stackTrace"])


def test_nothing_listens_to_the_emulated_output_bucket(stack: EmulatedStack) -> None:
    bucket = stack.outputs["OutputBucketName"]
    configured = stack.client("s3").get_bucket_notification_configuration(Bucket=bucket)
    assert [name for name in configured if name.endswith("Configurations")] == []


def test_every_route_leads_to_its_function(stack: EmulatedStack) -> None:
    for function, method, path in routes(load_template()):
        body = b"\xff\xd8" if method == "POST" else None
        address = f"{stack.outputs['ApiUrl']}{path.replace('{id}', 'any')}?group=a%2Bb"
        request = urllib.request.Request(address, body, {"Content-Type": "image/jpeg"}, method=method)
        urllib.request.urlopen(request).close()
        (line,) = [
            line for line in log_lines(stack) if line.get("event", {}).get("routeKey") == f"{method} {path}"
        ]
        event = line["event"]
        assert line["function_name"] == f"cytomask-{function.removesuffix('Function').lower()}"
        assert (event["version"], event["rawQueryString"]) == ("2.0", "group=a%2Bb")
        assert (event.get("body"), event["isBase64Encoded"]) == (("/9g=", True) if body else (None, False))


def test_the_next_invocation_after_an_update_of_the_stack_has_the_new_environment(
    stack: EmulatedStack,
) -> None:
    process = invoked(stack, {})["process"]
    set_pattern(stack, "(?P<well>.)")
    renewed = invoked(stack, {})
    assert (renewed["process"], renewed["environment"]["NAME_PATTERN"]) == (process, "(?P<well>.)")
    set_pattern(stack, UNREADABLE)
    assert "unreadable pattern" in invoked(stack, {})["errorMessage"]
    set_pattern(stack, "")
    assert invoked(stack, {})["environment"]["NAME_PATTERN"] == ""


@pytest.mark.slow
def test_two_stacks_run_side_by_side_and_an_exception_stops_its_own(
    stack: EmulatedStack, tmp_path: Path
) -> None:
    first = invoked(stack, {})["process"]
    with pytest.raises(KeyError, match="boom"), emulated_stack(tmp_path, handlers=HANDLERS) as second:
        endpoint, process = second.endpoint, invoked(second, {})["process"]
        assert (endpoint != stack.endpoint, process != first) == (True, True)
        raise KeyError("boom")
    assert not listens(endpoint)
    assert not runs(process)
    assert invoked(stack, {})["process"] == first


def both_ended(endpoint: str, process: int) -> bool:
    return not listens(endpoint) and not runs(process)


@pytest.mark.slow
def test_children_end_with_their_parent(tmp_path: Path) -> None:
    ends = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
    with ExitStack() as held:
        parents = [held.enter_context(holding_a_stack(tmp_path / end.name)) for end in ends]
        for end, parent in zip(ends, parents, strict=True):
            assert parent.stdout
            endpoint, process = json.loads(parent.stdout.readline())
            assert (listens(endpoint), runs(process)) == (True, True)
            parent.send_signal(end)
            parent.wait(timeout=60)
            eventually(partial(both_ended, endpoint, process))


@pytest.mark.slow
def test_a_handler_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(ChildFailed, match="No module named 'nowhere'"),
        emulated_stack(tmp_path, handlers=HANDLERS | {"SegmentFunction": "nowhere.app:handler"}),
    ):
        pass


def test_a_refused_parameter_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(StackFailed, match="MaximumConcurrency"),
        emulated_stack(tmp_path, parameters={"MaximumConcurrency": "1"}, handlers=HANDLERS),
    ):
        pass


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with listening_socket() as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ChildFailed, match=f":{port} "), emulated_stack(tmp_path, port=port):
            pass


def test_an_invocation_that_timed_out_while_waiting_is_not_started() -> None:
    begun: list[Any] = []
    context = Context("f", "128", "arn", "id", deadline_ms=int(time.time() * 1000) - 1)
    status, body = invoke(lambda event, _: begun.append(event), {}, context)
    assert (status, begun) == (HTTPStatus.INTERNAL_SERVER_ERROR, [])
    assert json.loads(body)["errorType"] == "Sandbox.Timedout"


def set_pattern(stack: EmulatedStack, pattern: str) -> None:
    """Update the stack's parameter NamePattern and wait until the update is complete."""
    cloudformation = stack.client("cloudformation")
    (described,) = cloudformation.describe_stacks(StackName=emulator.STACK_NAME)["Stacks"]
    cloudformation.update_stack(
        StackName=emulator.STACK_NAME,
        UsePreviousTemplate=True,
        Parameters=[
            {"ParameterKey": "NamePattern", "ParameterValue": pattern}
            if each["ParameterKey"] == "NamePattern"
            else {"ParameterKey": each["ParameterKey"], "UsePreviousValue": True}
            for each in described["Parameters"]
        ],
        Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
    )
    cloudformation.get_waiter("stack_update_complete").wait(
        StackName=emulator.STACK_NAME, WaiterConfig={"Delay": 1}
    )


def holding_a_stack(folder: Path) -> "subprocess.Popen[bytes]":
    """Run a process that has a stack and prints its endpoint and its front's process id."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLDING_A_STACK, str(folder), json.dumps(HANDLERS)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def eventually(look: Callable[[], Any], seconds: float = 30) -> Any:
    """Wait until `look` finds something and return it."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"nothing within {seconds} s"
        time.sleep(0.05)
    return found


def log_lines(stack: EmulatedStack) -> list[dict[str, Any]]:
    *whole, _being_written = stack.log.read_text().split("\n")
    return [json.loads(line) for line in whole]


def delivered(stack: EmulatedStack, function: str = "cytomask-segment") -> list[str]:
    """Return the bodies of all messages that the function got, including repeats."""
    invoked = [line for line in log_lines(stack) if line["message"] == "invoked"]
    events = [line["event"] for line in invoked if line["function_name"] == function]
    return [record["body"] for event in events for record in event.get("Records", [])]


def announced_buckets(stack: EmulatedStack) -> dict[str, str]:
    """Return the buckets that sent S3's test event, with the function that got it."""
    return {
        json.loads(record["body"])["Bucket"]: line["function_name"]
        for line in log_lines(stack)
        if line["message"] == "invoked"
        for record in line["event"].get("Records", [])
        if "s3:TestEvent" in record["body"]
    }


def key_of(body: str) -> str:
    return str(json.loads(body).get("Records", [{}])[0].get("s3", {}).get("object", {}).get("key", ""))


def invoked(stack: EmulatedStack, event: dict[str, Any]) -> Any:
    answer = stack.client("lambda").invoke(FunctionName="cytomask-segment", Payload=json.dumps(event))
    return json.load(answer["Payload"])


def listens(endpoint: str) -> bool:
    host, port = endpoint.removeprefix("http://").split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def runs(process: int) -> bool:
    """Tell whether a process is alive; a zombie is not."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")
