"""The stack that a command works on, deployed or emulated, found through its CloudFormation outputs."""

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError

from cytomask.infra import session

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient


class StackNotFound(Exception):
    """There is no such stack, or none that is finished, or it cannot be reached."""


@dataclass(frozen=True)
class Stack:
    """A stack's resources by their names, and clients of the account that it is in.

    Attributes:
        segment_queue, evaluation_queue: URLs.
        api_url: None where the stack has no HTTP door, as in the emulator.
        logs: a client of CloudWatch Logs.
    """

    name: str
    input_bucket: str
    output_bucket: str
    ground_truth_bucket: str
    segment_queue: str
    evaluation_queue: str
    table: str
    api_url: str | None
    s3: "S3Client"
    sqs: "SQSClient"
    dynamodb: "DynamoDBClient"
    logs: Any

    @classmethod
    def connect(cls, name: str, endpoint_url: str | None = None) -> "Stack":
        """Looks the stack up.

        Args:
            name: of the stack.
            endpoint_url: of an emulator, which gets dummy credentials; None is AWS, by the user's settings.

        Raises:
            StackNotFound: it is not there or not finished; nobody answers; no credentials or no region.
        """
        try:
            outputs = _outputs(_client("cloudformation", endpoint_url), name)
            clients = {
                service: _client(service, endpoint_url) for service in ("s3", "sqs", "dynamodb", "logs")
            }
        except (NoCredentialsError, NoRegionError) as error:
            raise StackNotFound(
                f"AWS cannot be asked for the stack `{name}`: {error}; set up the AWS CLI (`aws configure`), "
                "or give --endpoint-url for what `cytomask up` runs"
            ) from error
        except BotoCoreError as error:
            raise StackNotFound(f"the stack `{name}` cannot be looked up: {error}") from error
        try:
            return cls(
                name,
                outputs["InputBucketName"],
                outputs["OutputBucketName"],
                outputs["GroundTruthBucketName"],
                outputs["SegmentQueueUrl"],
                outputs["EvaluationQueueUrl"],
                outputs["JobsTableName"],
                outputs.get("ApiUrl"),
                **clients,
            )
        except KeyError as error:
            raise StackNotFound(f"the stack `{name}` has no output {error}; deploy it anew") from error


def run_on_stack(command: Callable[[Stack, argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """Runs a command on the stack that its arguments name; what AWS refuses becomes one sentence and 2."""
    try:
        return command(Stack.connect(arguments.stack, arguments.endpoint_url), arguments)
    except (StackNotFound, BotoCoreError, Boto3Error) as error:
        print(error, file=sys.stderr)
    except ClientError as error:
        refusal = error.response.get("Error", {})
        print(f"{error.operation_name} was refused: {refusal.get('Message', error)}", file=sys.stderr)
    return 2


def _client(service: str, endpoint_url: str | None) -> Any:
    if endpoint_url:
        return session.client(service, endpoint_url)
    make: Any = boto3.client  # typed by literal names only
    return make(service)


def _outputs(cloudformation: Any, name: str) -> Mapping[str, str]:
    try:
        (stack,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
    except ClientError as error:
        refusal = error.response.get("Error", {})
        if refusal.get("Code") == "ValidationError":
            raise StackNotFound(
                f"there is no stack `{name}` in {cloudformation.meta.region_name}; deploy it, name another "
                "with --stack or CYTOMASK_STACK, or give --endpoint-url for what `cytomask up` runs"
            ) from error
        raise StackNotFound(f"the stack `{name}` cannot be looked up: {refusal.get('Message')}") from error
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}
