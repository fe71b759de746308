"""Find the stack that a command works on, deployed or emulated, through its CloudFormation outputs."""

from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import boto3
import msgspec
from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError

from cytomask.acquisition import Pattern, parse_pattern
from cytomask.cli.console import complain
from cytomask.cli.rows import Rows
from cytomask.errors import code_of
from cytomask.infra import session
from cytomask.model_store import BAKED_IN, ModelStore
from cytomask.stack_models import Pins, StackModels, read_current
from cytomask.table import Table

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient


class StackNotFound(Exception):
    """The stack does not exist, is not finished, or cannot be reached."""


class UnknownJob(Exception):
    """An id, or the beginning of one, fits no job or more than one."""


@dataclass(frozen=True)
class Stack:
    """A stack's resources by name, and clients for its account.

    Attributes:
        segment_queue, evaluation_queue: URLs of the queues.
        api_url: address of the HTTP API; None if the stack has no HTTP routes.
        alarm_topic: ARN of the topic for alarms.
        models_bucket: name of the bucket; empty for a stack of an earlier release.
        arn: CloudFormation's id of the stack, which no other stack ever has.
        parameters: the template's parameters with which the stack was deployed.
        client: makes a client for any other service.
        logs: a client for CloudWatch Logs.
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
    alarm_topic: str | None = None
    models_bucket: str = ""
    arn: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    client: Callable[[str], Any] = field(default_factory=lambda: partial(_client, endpoint_url=None))

    @classmethod
    def connect(cls, name: str, endpoint_url: str | None = None) -> "Stack":
        """Look up the stack.

        Args:
            name: name of the stack.
            endpoint_url: address of an emulator, used with dummy credentials; None for AWS with the user's
                settings.

        Raises:
            StackNotFound: the stack does not exist or is not finished, the endpoint does not answer, or
                credentials or region are missing.
        """
        try:
            described = _describe(_client("cloudformation", endpoint_url), name)
            outputs = {each["OutputKey"]: each["OutputValue"] for each in described.get("Outputs", [])}
            clients = {
                service: _client(service, endpoint_url) for service in ("s3", "sqs", "dynamodb", "logs")
            }
        except (NoCredentialsError, NoRegionError) as error:
            raise StackNotFound(
                f"cannot ask AWS for the stack `{name}`: {str(error).rstrip('.')}; set up the AWS CLI "
                "(`aws configure`), or give --endpoint-url for the stack of `cytomask up`"
            ) from error
        except BotoCoreError as error:
            hint = "; is `cytomask up` still running?" if endpoint_url else ""
            raise StackNotFound(f"the stack `{name}` cannot be looked up: {error}{hint}") from error
        except ValueError as error:  # the endpoint is not a URL
            raise StackNotFound(
                f"--endpoint-url {endpoint_url}: {error}; give http://127.0.0.1:PORT"
            ) from error
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
                alarm_topic=outputs.get("AlarmTopicArn"),
                models_bucket=outputs.get("ModelsBucketName", ""),
                arn=described["StackId"],
                parameters={
                    each["ParameterKey"]: each["ParameterValue"] for each in described.get("Parameters", [])
                },
                client=partial(_client, endpoint_url=endpoint_url),
                **clients,
            )
        except KeyError as error:
            raise StackNotFound(f"the stack `{name}` has no output {error}; deploy it again") from error

    @property
    def own_buckets(self) -> set[str]:
        """The buckets that belong to the stack."""
        return {*self.data_buckets, self.models_bucket}

    @property
    def data_buckets(self) -> set[str]:
        """The stack's own buckets that messages may name."""
        return {self.input_bucket, self.output_bucket, self.ground_truth_bucket}

    @property
    def allowed_buckets(self) -> list[str]:
        """The other buckets whose images the stack may read, from its parameter AllowedBuckets."""
        return [name for name in self.parameters.get("AllowedBuckets", "").split(",") if name]

    @property
    def model(self) -> str:
        """The sha256 of the current model, or `baked-in`, from the stack's parameter Model."""
        return self.parameters.get("Model", BAKED_IN)

    @property
    def model_store(self) -> ModelStore:
        """The models bucket."""
        return ModelStore(self.s3, self.models_bucket)

    @property
    def pins(self) -> Pins:
        """Access to the models that plates are pinned to."""
        return Pins(Table(self.dynamodb, self.table))

    def models(self) -> StackModels:
        """Find the model of each image; reads each plate's pin only once."""
        return StackModels(read_current(self.model_store, self.model), cache(self.pins.read), self.pattern)

    @property
    def pattern(self) -> Pattern | None:
        """The users' own naming scheme, from the stack's parameter NamePattern."""
        named = self.parameters.get("NamePattern", "")
        return parse_pattern(named) if named else None

    @property
    def rows(self) -> Rows:
        """A reader of the Jobs table."""
        return Rows(self.dynamodb, self.table)

    def log_events(self, function: str, since: int, pattern: str) -> Iterator[Mapping[str, Any]]:
        """Yield a function's log events since a time in ms; none if it has not logged anything yet."""
        pages = self.logs.get_paginator("filter_log_events").paginate(
            logGroupName=f"/aws/lambda/{self.name}-{function}", startTime=since, filterPattern=pattern
        )
        try:
            yield from (event for page in pages for event in page["events"])
        except ClientError as error:
            if code_of(error) != "ResourceNotFoundException":
                raise

    def find_job(self, beginning: str) -> str:
        """Return the full id of the job whose id begins with this text; raise UnknownJob."""
        ids = self.rows.ids(beginning.lower())
        if not ids:
            raise UnknownJob(f"the stack `{self.name}` has no job {beginning}; `cytomask jobs` lists them")
        if len(ids) > 1:
            raise UnknownJob(f"{beginning} fits {len(ids)} jobs: {', '.join(ids)}; give more digits")
        return ids[0]


def run_on_stack(command: Callable[[Stack, Namespace], int], arguments: Namespace) -> int:
    """Run a command on the stack that its arguments name; print AWS's refusals as one sentence."""
    try:
        return command(Stack.connect(arguments.stack, arguments.endpoint_url), arguments)
    except UnknownJob as error:
        complain(str(error))
        return 1
    except (StackNotFound, BotoCoreError, Boto3Error) as error:
        complain(" ".join(str(error).split()))
    except ClientError as error:
        complain(refusal(error))
    except msgspec.ValidationError as error:
        complain(f"a row of the Jobs table cannot be read: {error}; is the stack newer than this command?")
    except UnicodeEncodeError as error:
        complain(f"{str(error.object)[:200]} is not UTF-8, but all names in AWS are; rename it")
    return 2


def refusal(error: ClientError) -> str:
    """Say what AWS refused, and why."""
    said = error.response.get("Error", {}).get("Message") or str(error)
    return f"{error.operation_name} was refused: {said}"


def _client(service: str, endpoint_url: str | None) -> Any:
    if endpoint_url:
        return session.client(service, endpoint_url)
    make: Any = boto3.client  # typed by literal names only
    return make(service)


def _describe(cloudformation: Any, name: str) -> Mapping[str, Any]:
    try:
        (stack,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
    except ClientError as error:
        refusal = error.response.get("Error", {})
        if refusal.get("Code") == "ValidationError":
            raise StackNotFound(
                f"there is no stack `{name}` in {cloudformation.meta.region_name}; deploy it, name another "
                "with --stack or CYTOMASK_STACK, or give --endpoint-url for the stack of `cytomask up`"
            ) from error
        raise StackNotFound(f"the stack `{name}` cannot be looked up: {refusal.get('Message')}") from error
    described: Mapping[str, Any] = stack
    return described
