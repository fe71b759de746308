"""Evaluate roles of template.yaml and of infra/policies like IAM: which calls they allow.

Every call that a functional test sees a function or a command make is looked up here, because an emulator
allows them all.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from string import Template
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
    "GetBucketEncryption": "GetEncryptionConfiguration",
    "GetBucketNotificationConfiguration": "GetBucketNotification",
    "PutBucketNotificationConfiguration": "PutBucketNotification",
}
BUCKET_ACTIONS = {"ListBucket", "ListBucketVersions", "GetBucketLocation", "GetBucketVersioning"}
BUCKET_ACTIONS |= {"GetBucketNotification", "PutBucketNotification", "GetEncryptionConfiguration"}
EVERYWHERE = "*"  # what a call is about that names nothing: IAM allows it for every resource or for none
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
    """The rights of a function or a person, and the calls that were made with them.

    Attributes:
        strict: whether calls that concern nothing of the stack must be allowed too.
    """

    rights: list[Right]
    strict: bool = False
    used: set[Right] = field(default_factory=set)
    denied: set[str] = field(default_factory=set)

    def on_call(self, params: dict[str, Any], model: Any, **_: Any) -> None:
        """Look a call up, as botocore announces it (`provide-client-params`)."""
        for action, resource in needed(model.service_model.service_name, model.name, params):
            self._look_up(action, resource)

    def _look_up(self, action: str, resource: str) -> None:
        allowing = [
            right
            for right in self.rights
            if fnmatchcase(action, right.action) and fnmatchcase(resource, right.resource)
        ]
        self.used.update(allowing)
        # A missing object is told by 404 only to who may list the bucket.
        if action.startswith("s3:GetObject"):
            bucket = resource.partition("/")[0]
            listing = [right for right in self.rights if right.action == "s3:ListBucket"]
            self.used.update(right for right in listing if fnmatchcase(bucket, right.resource))
        if not allowing and (self.strict or resource.startswith(tuple(ARNS.values()))):
            self.denied.add(f"{action} on {resource}")


def needed(service: str, operation: str, params: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the actions that a call needs a right for, each with its resource."""
    if service == "s3":
        return _needed_of_s3(operation, params)
    action = f"{service}:{operation.removesuffix('Batch')}"
    if action == "lambda:ListEventSourceMappings":
        return [(action, EVERYWHERE)]
    found = [f"arn:aws:{service}:{REGION}:{ACCOUNT}:{each}" for each in _resources(params)]
    return [(action, resource) for resource in found or [EVERYWHERE]]


def _resources(params: dict[str, Any]) -> list[str]:
    """Return what a call is about, as the end of an ARN."""
    match params:
        case {"TableName": table}:
            found = [f"table/{table}" + (f"/index/{params['IndexName']}" if "IndexName" in params else "")]
        case {"RequestItems": tables}:
            found = [f"table/{table}" for table in tables]
        case {"TopicArn": arn}:
            found = [arn.rpartition(":")[2]]
        case {"QueueUrl": url}:
            found = [url.rpartition("/")[2]]
        case {"StackName": stack}:
            found = [f"stack/{stack}/1"]
        case {"logGroupName": group}:
            found = [f"log-group:{group}:*"]
        case {"repositoryName": repository}:
            found = [f"repository/{repository}"]
        case {"UUID": mapping}:
            found = [f"event-source-mapping:{mapping}"]
        case {"FunctionName": function}:
            found = [f"function:{function}"]
        case _:
            found = []
    return found


def _needed_of_s3(operation: str, params: dict[str, Any]) -> list[tuple[str, str]]:
    bucket, key = f"arn:aws:s3:::{params['Bucket']}", params.get("Key", "")
    if operation == "CopyObject":
        source = params["CopySource"]
        return [
            ("s3:GetObject", f"arn:aws:s3:::{source['Bucket']}/{source['Key']}"),
            ("s3:PutObject", f"{bucket}/{key}"),
        ]
    if operation == "DeleteObjects":
        return [
            (f"s3:DeleteObject{'Version' if each.get('VersionId') else ''}", f"{bucket}/{each['Key']}")
            for each in params["Delete"]["Objects"]
        ]
    action = S3_ACTIONS.get(operation, operation)
    if action == "GetObject" and params.get("VersionId"):
        action = "GetObjectVersion"
    return [(f"s3:{action}", bucket if action in BUCKET_ACTIONS else f"{bucket}/{key}")]


def read_policy(name: str, *, strict: bool = False) -> Role:
    """Read a policy file of infra/policies, for the stack of the tests in whichever account."""
    text = (TEMPLATE.parent / "infra" / "policies" / f"{name}.json").read_text()
    known = {"StackName": "cytomask", "Images": "cytomask", "Region": REGION}
    text = Template(text).substitute(dict.fromkeys(("AccountId", "ApiId", "Bucket"), "*") | known)
    rights = [
        Right(statement["Sid"], action, resource)
        for statement in json.loads(text)["Statement"]
        for action in _listed(statement["Action"])
        for resource in _listed(statement["Resource"])
    ]
    return Role(rights, strict)


def table_of(roles: dict[str, Role]) -> str:
    """Write the rights of the functions as a table, with whether the functions' own calls need them."""
    lines = ["| function | right | on | used |", "|---|---|---|---|"]
    for name, role in roles.items():
        for right in role.rights:
            by = "by Lambda" if right.action in BY_LAMBDA else "yes" if right in role.used else "**no**"
            lines.append(f"| {name} | `{right.action}` | {_short(right.resource)} | {by} |")
    return "\n".join(lines) + "\n"


def table_of_statements(role: Role) -> str:
    """Write the statements of a policy as a table: the actions that were used, and the others."""
    lines = [
        "| statement | used by `make destroy` | by CloudFormation or SAM: not shown here |",
        "|---|---|---|",
    ]
    for sid in dict.fromkeys(right.sid for right in role.rights):
        actions = dict.fromkeys(right.action for right in role.rights if right.sid == sid)
        used = {right.action for right in role.used if right.sid == sid}
        shown = [[f"`{each}`" for each in actions if (each in used) is wanted] for wanted in (True, False)]
        lines.append(f"| {sid} | {' | '.join(', '.join(each) or '-' for each in shown)} |")
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
