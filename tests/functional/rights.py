"""Evaluate the roles of template.yaml like IAM: which of the functions' calls they allow.

Every call that a functional test sees a function make is looked up here, because an emulator allows them all.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from factories import GROUND_TRUTH, INPUT, MODELS, OUTPUT, REGION, TABLE

from cytomask.infra.template import TEMPLATE, load_template

ACCOUNT = "123456789012"
ARNS = {
    "InputBucket": f"arn:aws:s3:::{INPUT}",
    "OutputBucket": f"arn:aws:s3:::{OUTPUT}",
    "GroundTruthBucket": f"arn:aws:s3:::{GROUND_TRUTH}",
    "ModelsBucket": f"arn:aws:s3:::{MODELS}",
    "JobsTable": f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{TABLE}",
    "SegmentQueue": f"arn:aws:sqs:{REGION}:{ACCOUNT}:cytomask-segment",
    "EvaluationQueue": f"arn:aws:sqs:{REGION}:{ACCOUNT}:cytomask-evaluation",
    "AlarmTopic": f"arn:aws:sns:{REGION}:{ACCOUNT}:cytomask-alarms",
    "PlateTopic": f"arn:aws:sns:{REGION}:{ACCOUNT}:cytomask-plates",
}
# S3's name of the right to an operation, if it is not the operation's own name
# (docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html).
S3_ACTIONS = {
    "HeadBucket": "ListBucket",
    "HeadObject": "GetObject",
    "ListObjectsV2": "ListBucket",
    "ListObjectVersions": "ListBucketVersions",
    "CreateMultipartUpload": "PutObject",
    "UploadPart": "PutObject",
    "CompleteMultipartUpload": "PutObject",
}
BUCKET_ACTIONS = {"ListBucket", "ListBucketVersions"}
# Rights that Lambda itself uses on a function's behalf: to poll its queue and to write its log.
BY_LAMBDA = {"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"}
BY_LAMBDA |= {"logs:CreateLogStream", "logs:PutLogEvents"}


@dataclass(frozen=True)
class Right:
    """One action that a role allows on one resource, as the statement `sid` of its policy says."""

    sid: str
    action: str
    resource: str


@dataclass
class Role:
    """A function's rights, and the calls that it made."""

    rights: list[Right]
    used: set[Right] = field(default_factory=set)
    denied: set[str] = field(default_factory=set)

    def on_call(self, params: dict[str, Any], model: Any, **_: Any) -> None:
        """Look a call up, as botocore announces it (`provide-client-params`)."""
        service = model.service_model.service_name
        action, resource = needed(service, model.name, params)
        allowing = [
            right for right in self.rights if right.action == action and fnmatchcase(resource, right.resource)
        ]
        self.used.update(allowing)
        if action.startswith(
            "s3:GetObject"
        ):  # which tells a missing object by 404 only to who may list the bucket
            bucket = resource.partition("/")[0]
            listing = ("s3:ListBucket", bucket)
            self.used.update(right for right in self.rights if (right.action, right.resource) == listing)
        if not allowing and resource.startswith(tuple(ARNS.values())):
            self.denied.add(f"{action} on {resource}")


def needed(service: str, operation: str, params: dict[str, Any]) -> tuple[str, str]:
    """Return the action and the resource that a call needs a right for."""
    if service == "s3":
        action = S3_ACTIONS.get(operation, operation)
        if action == "GetObject" and params.get("VersionId"):
            action = "GetObjectVersion"
        bucket = f"arn:aws:s3:::{params['Bucket']}"
        return f"s3:{action}", bucket if action in BUCKET_ACTIONS else f"{bucket}/{params.get('Key', '')}"
    if service == "dynamodb":
        table = f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{params.get('TableName', TABLE)}"
        index = params.get("IndexName")
        return f"dynamodb:{operation}", f"{table}/index/{index}" if index else table
    if service == "sns" and "TopicArn" in params:
        return f"sns:{operation}", params["TopicArn"]
    if service == "sqs" and "QueueUrl" in params:
        queue = f"arn:aws:sqs:{REGION}:{ACCOUNT}:{params['QueueUrl'].rpartition('/')[2]}"
        return f"sqs:{operation.removesuffix('Batch')}", queue
    return f"{service}:{operation}", "outside the stack"


def read_policy(name: str) -> Role:
    """Read a policy file of infra/policies, for the stack of the tests in whichever account."""
    text = (TEMPLATE.parent / "infra" / "policies" / f"{name}.json").read_text()
    for variable, value in {"StackName": "cytomask", "AccountId": "*", "Region": REGION}.items():
        text = text.replace(f"${{{variable}}}", value)
    return Role(
        [
            Right(statement["Sid"], action, resource)
            for statement in json.loads(text)["Statement"]
            for action in _listed(statement["Action"])
            for resource in _listed(statement["Resource"])
        ]
    )


def table_of(roles: dict[str, Role]) -> str:
    """Write the rights of the functions as a table, with whether the functions' own calls need them."""
    lines = ["| function | right | on | used |", "|---|---|---|---|"]
    for name, role in roles.items():
        for right in role.rights:
            by = "by Lambda" if right.action in BY_LAMBDA else "yes" if right in role.used else "**no**"
            lines.append(f"| {name} | `{right.action}` | {_short(right.resource)} | {by} |")
    return "\n".join(lines) + "\n"


def _short(resource: str) -> str:
    for name, arn in ARNS.items():
        resource = resource.replace(arn, name)
    return resource


def read_roles() -> dict[str, Role]:
    """Read the role of each function, by the function's name."""
    resources = load_template()["Resources"]
    names = {
        "segment": "SegmentRole",
        "evaluate": "EvaluateRole",
        "failures": "FailuresRole",
        "api": "ApiRole",
    }
    return {name: Role(list(_rights(resources[role]["Properties"]))) for name, role in names.items()}


def _rights(role: dict[str, Any]) -> Iterator[Right]:
    for statement in role["Policies"][0]["PolicyDocument"]["Statement"]:
        for action in _listed(statement["Action"]):
            for resource in _listed(statement["Resource"]):
                yield Right(statement["Sid"], action, _written_out(resource))


def _written_out(resource: Any) -> str:
    match resource:
        case {"Fn::GetAtt": [name, "Arn"]}:
            return str(ARNS.get(name, name))
        case {"Ref": name}:
            return str(ARNS.get(name, name))
        case {"Fn::Sub": str(text)}:
            for name, arn in ARNS.items():
                text = text.replace(f"${{{name}.Arn}}", arn)
            return text
    return str(resource)


def _listed(item: Any) -> list[Any]:
    return item if isinstance(item, list) else [item]
