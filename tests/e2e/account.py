"""An emulated AWS account where containers reach it: ministack on Docker's bridge, and on 127.0.0.1.

`python tests/e2e/account.py` runs one for `sam local`. It has template.yaml's buckets, queues and table, and
a picture in the input bucket for every file of tests/events. It has no functions: those are under test.
"""

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import tifffile

from cytomask.infra import emulator, session
from cytomask.infra.template import Template, load_template
from cytomask.samples.fields import phase_contrast_field

BRIDGE = "172.17.0.1"
LOOPBACK = "127.0.0.1"
USUAL_PORT = 4566
START_SECONDS = 60
ROOT = Path(__file__).parents[2]
EVENTS = ROOT / "tests" / "events"
ENVIRONMENT_FILE = ROOT / ".aws-sam" / "environment.json"


@dataclass(frozen=True)
class Account:
    """A running emulator. Containers reach its port on the bridge, Docker's pushes on 127.0.0.1."""

    port: int

    @property
    def endpoint(self) -> str:
        """Return the address for containers and boto3."""
        return f"http://{BRIDGE}:{self.port}"

    def client(self, service: str) -> Any:
        """Make a boto3 client of the emulated service."""
        return session.client(service, self.endpoint)


@contextmanager
def emulated_account(folder: Path, port: int = 0) -> Iterator[Account]:
    """Run ministack, which runs deployed functions in Docker; its log goes to `folder`."""
    port = port or free_port(BRIDGE)
    environment = {
        **os.environ,
        **session.CREDENTIALS,
        "AWS_ENDPOINT_URL": f"http://{BRIDGE}:{port}",  # what the functions' containers get
        "GATEWAY_PORT": str(port),
        "MINISTACK_HOST": BRIDGE,
        "MINISTACK_REGION": session.REGION,
        "SFTP_ENABLED": "0",
        "IOT_MTLS_ENABLED": "0",
        "LAMBDA_EXECUTOR": "docker",  # ministack's own Python cannot import the layer's wheels
        "TMPDIR": str(folder),
    }
    addresses = [option for host in (BRIDGE, LOOPBACK) for option in ("--bind", f"{host}:{port}")]
    with (folder / "ministack.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "hypercorn", *addresses, "ministack.app:app"],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C reaches us alone; we stop it
        )
    try:
        account = Account(port)
        _wait_until_ready(process, account, folder / "ministack.log")
        yield account
    finally:
        process.terminate()  # upon which it removes its containers
        process.wait()


def create_storage(account: Account) -> dict[str, str]:
    """Create the stack without its functions; return its outputs."""
    template = storage_only(load_template())
    cloudformation = account.client("cloudformation")
    cloudformation.create_stack(
        StackName=emulator.STACK_NAME, TemplateBody=json.dumps(template), Capabilities=["CAPABILITY_IAM"]
    )
    cloudformation.get_waiter("stack_create_complete").wait(
        StackName=emulator.STACK_NAME, WaiterConfig={"Delay": 1, "MaxAttempts": START_SECONDS}
    )
    stack = cloudformation.describe_stacks(StackName=emulator.STACK_NAME)["Stacks"][0]
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}


def storage_only(template: Template) -> Template:
    """Keep the template's buckets, queues and table, and the outputs that name only these."""
    kinds = ("AWS::S3::Bucket", "AWS::SQS::Queue", "AWS::DynamoDB::Table")
    resources = {name: item for name, item in template["Resources"].items() if item["Type"] in kinds}
    for resource in resources.values():
        resource.pop("DependsOn", None)
    outputs = {
        name: output
        for name, output in template["Outputs"].items()
        if output["Value"].get("Ref") in resources
    }
    return {"Parameters": template["Parameters"], "Resources": resources, "Outputs": outputs}


def function_environment(account: Account, outputs: Mapping[str, str]) -> dict[str, str]:
    """Make the environment that `sam local` cannot derive: names of resources, and the account's address."""
    return {
        "INPUT_BUCKET": outputs["InputBucketName"],
        "OUTPUT_BUCKET": outputs["OutputBucketName"],
        "GROUND_TRUTH_BUCKET": outputs["GroundTruthBucketName"],
        "JOBS_TABLE": outputs["JobsTableName"],
        "SEGMENT_QUEUE_URL": outputs["SegmentQueueUrl"],
        "EVALUATION_QUEUE_URL": outputs["EvaluationQueueUrl"],
        "RETRY_DELAY": "1",
        "MAX_RECEIVE_COUNT": "5",
        "POWERTOOLS_METRICS_NAMESPACE": "cytomask",
        "AWS_ENDPOINT_URL": account.endpoint,
    }


def keys_of(event: Path) -> list[str]:
    """List the keys of the images that an event file names.

    Search the text instead of using our own parser, which is under test. Notifications encode keys; people
    and EventBridge do not.
    """
    text = event.read_text(encoding="utf-8").replace('\\"', '"')
    written = re.findall(r'"image(?:_path)?": "s3://[^/]+/([^"]+)"', text)
    keys = re.findall(r'"key": "([^"]+)"', text)
    decoded = keys if '"detail-type"' in text else [unquote_plus(key) for key in keys]
    return [json.loads(f'"{key}"') for key in written + decoded]


def upload_pictures(account: Account, outputs: Mapping[str, str], folder: Path) -> dict[str, Path]:
    """Upload a different picture under every key that tests/events names; return the files by key."""
    keys = sorted({key for event in sorted(EVENTS.glob("*.json")) for key in keys_of(event)})
    pictures = {}
    for seed, key in enumerate(keys):
        pictures[key] = folder / f"picture {seed}.tif"
        field = phase_contrast_field(seed, height=260, width=300)
        tifffile.imwrite(pictures[key], field.pixels, compression="lzw")
        account.client("s3").upload_file(str(pictures[key]), outputs["InputBucketName"], key)
    return pictures


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="An emulated AWS account for `sam local`.")
    parser.add_argument("--port", type=int, default=USUAL_PORT, help=f"default: {USUAL_PORT}")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="cytomask-") as name:
        folder = Path(name)
        try:
            with emulated_account(folder, arguments.port) as account:
                outputs = create_storage(account)
                upload_pictures(account, outputs, folder)
                ENVIRONMENT_FILE.parent.mkdir(exist_ok=True)
                parameters = {"Parameters": function_environment(account, outputs)}
                ENVIRONMENT_FILE.write_text(json.dumps(parameters, indent=2))
                print(account.endpoint)
                print(f"environment of the function: {ENVIRONMENT_FILE.relative_to(ROOT)}")
                print("ready", flush=True)
                signal.pause()
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)


def free_port(host: str) -> int:
    """Find a port on which nothing listens now."""
    with socket.create_server((host, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_until_ready(process: "subprocess.Popen[bytes]", account: Account, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"{account.endpoint}/_ministack/ready", timeout=5).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"ministack did not start:\n{log.read_text()[-3000:]}") from None
            time.sleep(0.1)


if __name__ == "__main__":
    main()
