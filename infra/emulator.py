"""Run the whole stack on this computer: template.yaml in ministack, an AWS emulator, and the real handlers.

The stack listens on 127.0.0.1 only, keeps everything in memory, and uses neither Docker nor the user's AWS
settings.
"""

import io
import json
import socket
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from botocore.exceptions import ClientError

from cytomask.infra.children import LOOPBACK, Child, child, listening_socket
from cytomask.infra.session import CREDENTIALS, REGION, client, emulated_api_url, function_environment
from cytomask.infra.template import (
    NO_CODE,
    Template,
    function_name,
    functions,
    load_template,
    routes,
    without_local_code,
)

STACK_NAME = "cytomask"
HANDLERS = MappingProxyType(
    {
        "SegmentFunction": "cytomask.functions.segment.app:handler",
        "EvaluateFunction": "cytomask.functions.evaluate.app:handler",
        "FailuresFunction": "cytomask.functions.failures.app:handler",
        "ApiFunction": "cytomask.functions.api.app:handler",
    }
)

# The emulator has one environment per function. An invocation waits for the previous one, and its own timeout
# includes that wait.
FEWEST_AT_A_TIME = MappingProxyType({"MaximumConcurrency": "2"})

LOG = "functions.log.jsonl"
START_SECONDS = 120.0


class StackFailed(RuntimeError):
    """CloudFormation refused the template, or could not make one of its resources."""


@dataclass(frozen=True)
class EmulatedStack:
    """A running stack.

    Attributes:
        endpoint: http://127.0.0.1:PORT, for every service.
        outputs: the stack's outputs by name.
        log: the file of the handlers' output, one JSON line each, as in CloudWatch.
    """

    endpoint: str
    outputs: Mapping[str, str]
    log: Path

    def client(self, service: str) -> Any:
        """Return a boto3 client of the emulated service."""
        return client(service, self.endpoint)


@contextmanager
def emulated_stack(
    folder: Path,
    port: int = 0,
    parameters: Mapping[str, str] = MappingProxyType({}),
    handlers: Mapping[str, str] = HANDLERS,
) -> Iterator[EmulatedStack]:
    """Run the stack until the context ends.

    Args:
        folder: folder for this run's logs, which replace those of an earlier run. It is made if needed.
        port: port of the endpoint; 0 takes a free one.
        parameters: values for parameters of template.yaml; the others keep their defaults.
        handlers: logical id of a function -> the `module:handler` to forward it to.

    Raises:
        ChildFailed: the port is taken, or a process did not start.
        StackFailed: the emulator could not create the stack.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for earlier in folder.glob("*.log*"):
        earlier.unlink()
    template = load_template()
    with ExitStack() as running:
        gateway = running.enter_context(listening_socket(port))
        fronts = {name: running.enter_context(listening_socket()) for name in functions(template)}
        endpoint = f"http://{LOOPBACK}:{gateway.getsockname()[1]}"
        forwarded = {
            function_name(function, STACK_NAME): fronts[name].getsockname()[1]
            for name, function in functions(template).items()
        }
        _start_gateway(running, gateway, forwarded, folder)
        given = {"EndpointUrl": endpoint} | FEWEST_AT_A_TIME | dict(parameters)
        outputs = _create_stack(endpoint, template, given)
        lambdas = client("lambda", endpoint)
        started = []
        for name, function in functions(template).items():  # in parallel: each takes a second to import
            environment = function_environment(lambdas, endpoint, function_name(function, STACK_NAME))
            started.append(_start_front(running, fronts[name], handlers[name], environment, folder))
        for front in started:
            front.wait_until_ready("/", START_SECONDS)
        _open_queues(endpoint)
        outputs["ApiUrl"] = _open_routes(endpoint, template)
        yield EmulatedStack(endpoint, outputs, folder / LOG)


def _start_gateway(
    running: ExitStack, listener: socket.socket, forwarded: Mapping[str, int], folder: Path
) -> None:
    port = listener.getsockname()[1]
    log = folder / "ministack.log"
    environment = {
        **CREDENTIALS,
        "MINISTACK_HOST": LOOPBACK,
        "GATEWAY_PORT": str(port),
        "MINISTACK_REGION": REGION,
        "SFTP_ENABLED": "0",
        "IOT_MTLS_ENABLED": "0",
        "DOCKER_HOST": f"unix://{folder}/no-docker",  # ministack removes containers when it starts
        "TMPDIR": str(folder),
        **{f"MINISTACK_LAMBDA_PROXY_{name}": f"http://{LOOPBACK}:{to}/" for name, to in forwarded.items()},
    }
    gateway = running.enter_context(child("cytomask.infra.gateway", [], environment, listener, log, log))
    gateway.wait_until_ready("/_ministack/ready", START_SECONDS)


def _create_stack(endpoint: str, template: Template, parameters: Mapping[str, str]) -> dict[str, str]:
    _put_no_code(endpoint)
    cloudformation = client("cloudformation", endpoint)
    try:
        cloudformation.create_stack(
            StackName=STACK_NAME,
            TemplateURL=_put_template(endpoint, template),
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
        )
    except ClientError as error:
        raise StackFailed(f"the stack was refused: {error.response['Error']['Message']}") from error
    deadline = time.monotonic() + START_SECONDS
    while (stack := _described(cloudformation))["StackStatus"] == "CREATE_IN_PROGRESS":
        if time.monotonic() > deadline:
            raise StackFailed(f"the stack was not created within {START_SECONDS:.0f} s")
        time.sleep(0.05)
    if stack["StackStatus"] != "CREATE_COMPLETE":
        raise StackFailed(f"the stack is {stack['StackStatus']}: {_reasons(cloudformation)}")
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}


def _put_template(endpoint: str, template: Template) -> str:
    """Store the template in the emulated S3 and return its address, as `sam deploy` does.

    CloudFormation takes 51,200 bytes directly and a megabyte from S3.
    """
    place = {"Bucket": NO_CODE["Bucket"], "Key": "template.json"}
    client("s3", endpoint).put_object(**place, Body=json.dumps(without_local_code(template)).encode())
    return f"{endpoint}/{place['Bucket']}/{place['Key']}"


def _put_no_code(endpoint: str) -> None:
    """Store an empty archive at the address that the template's copy gives for the code."""
    archive = io.BytesIO()
    zipfile.ZipFile(archive, "w").close()
    s3 = client("s3", endpoint)
    s3.create_bucket(Bucket=NO_CODE["Bucket"], CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_object(**NO_CODE, Body=archive.getvalue())


def _described(cloudformation: Any) -> dict[str, Any]:
    described: dict[str, Any] = cloudformation.describe_stacks(StackName=STACK_NAME)["Stacks"][0]
    return described


def _reasons(cloudformation: Any) -> str:
    events = cloudformation.describe_stack_events(StackName=STACK_NAME)["StackEvents"]
    failed = [event for event in events if event["ResourceStatus"].endswith("_FAILED")]
    return "; ".join(f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason')}" for event in failed)


def _start_front(
    running: ExitStack, listener: socket.socket, handler: str, environment: Mapping[str, str], folder: Path
) -> Child:
    errors = folder / f"{environment['AWS_LAMBDA_FUNCTION_NAME']}.stderr.log"
    told = [handler, environment["AWS_ENDPOINT_URL"]]
    front = child("cytomask.infra.front", told, environment, listener, folder / LOG, errors)
    return running.enter_context(front)


def _open_routes(endpoint: str, template: Template) -> str:
    """Create the HttpApi's routes, which ministack leaves out; return the address that serves them."""
    door = client("apigatewayv2", endpoint)
    (made,) = door.get_apis()["Items"]
    for function, method, path in routes(template):
        integration = door.create_integration(
            ApiId=made["ApiId"],
            IntegrationType="AWS_PROXY",
            IntegrationUri=function_name(template["Resources"][function], STACK_NAME),
            PayloadFormatVersion="2.0",
        )
        door.create_route(
            ApiId=made["ApiId"],
            RouteKey=f"{method} {path}",
            Target=f"integrations/{integration['IntegrationId']}",
        )
    return emulated_api_url(endpoint, made["ApiEndpoint"])


def _open_queues(endpoint: str) -> None:
    """Start delivering messages, now that all functions can answer."""
    lambdas = client("lambda", endpoint)
    for mapping in lambdas.list_event_source_mappings()["EventSourceMappings"]:
        # ministack keeps a parameter's number as text, and its poller fails on text.
        most = int(mapping["ScalingConfig"]["MaximumConcurrency"])
        lambdas.update_event_source_mapping(
            UUID=mapping["UUID"], Enabled=True, ScalingConfig={"MaximumConcurrency": most}
        )
