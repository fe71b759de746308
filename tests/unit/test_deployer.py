"""The deployer's policy: it suffices for every property in the template, and ends at the stack's own names.

No emulator asks for rights. The tables below come from the handlers' permissions in CloudFormation's resource
schemas (docs.aws.amazon.com/cloudformation-cli/latest/userguide/resource-type-schema.html), and for types
without a schema from the service authorization reference (docs.aws.amazon.com/service-authorization).
"""

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from string import Template
from typing import Any

import pytest
from test_policies import FOLDER

from cytomask.infra.template import load_template

ACCOUNT, REGION = "111111111111", "eu-central-1"
Node = dict[str, Any]

# What every resource of a type needs, whatever its properties, to be made, changed, tagged and deleted.
ALWAYS = {
    "AWS::ApiGatewayV2::Api": "apigateway: DELETE GET PATCH POST PUT",
    "AWS::ApiGatewayV2::Stage": "apigateway: DELETE GET PATCH POST PUT TagResource UntagResource",
    "AWS::Budgets::Budget": "budgets: ModifyBudget ViewBudget",
    "AWS::CloudWatch::Alarm": "cloudwatch: DeleteAlarms DescribeAlarms ListTagsForResource PutMetricAlarm "
    "TagResource UntagResource",
    "AWS::CloudWatch::Dashboard": "cloudwatch: DeleteDashboards GetDashboard PutDashboard",
    "AWS::DynamoDB::Table": "dynamodb: CreateTable DeleteTable DescribeContinuousBackups "
    "DescribeContributorInsights DescribeKinesisStreamingDestination DescribeTable DescribeTimeToLive "
    "GetResourcePolicy ListTagsOfResource TagResource UntagResource UpdateTable",
    "AWS::IAM::Policy": "iam: DeleteRolePolicy GetRolePolicy PutRolePolicy",
    "AWS::IAM::Role": "iam: CreateRole DeleteRole GetRole ListAttachedRolePolicies ListRolePolicies TagRole "
    "UntagRole UpdateAssumeRolePolicy UpdateRole",
    "AWS::Lambda::EventSourceMapping": "lambda: CreateEventSourceMapping DeleteEventSourceMapping "
    "GetEventSourceMapping ListTags TagResource UntagResource UpdateEventSourceMapping",
    "AWS::Lambda::Function": "lambda: CreateFunction DeleteFunction GetFunction GetFunctionCodeSigningConfig "
    "GetFunctionConfiguration GetRuntimeManagementConfig ListTags TagResource UntagResource "
    "UpdateFunctionCode UpdateFunctionConfiguration",
    "AWS::Lambda::LayerVersion": "lambda: DeleteLayerVersion GetLayerVersion PublishLayerVersion",
    "AWS::Lambda::Permission": "lambda: AddPermission GetPolicy RemovePermission",
    "AWS::Logs::LogGroup": "logs: CreateLogGroup DeleteLogGroup DescribeLogGroups GetDataProtectionPolicy "
    "ListTagsForResource TagResource UntagResource",
    "AWS::Logs::MetricFilter": "logs: DeleteMetricFilter DescribeMetricFilters PutMetricFilter",
    "AWS::Logs::QueryDefinition": "logs: DeleteQueryDefinition DescribeQueryDefinitions PutQueryDefinition",
    "AWS::S3::Bucket": "s3: CreateBucket DeleteBucket GetBucketTagging ListBucket PutBucketTagging",
    "AWS::S3::BucketPolicy": "s3: DeleteBucketPolicy GetBucketPolicy PutBucketPolicy",
    "AWS::SNS::Subscription": "sns: GetSubscriptionAttributes SetSubscriptionAttributes Unsubscribe",
    "AWS::SNS::Topic": "sns: CreateTopic DeleteTopic GetDataProtectionPolicy GetTopicAttributes "
    "ListSubscriptionsByTopic ListTagsForResource SetTopicAttributes TagResource UntagResource",
    "AWS::SNS::TopicPolicy": "sns: GetTopicAttributes SetTopicAttributes",
    "AWS::SQS::Queue": "sqs: CreateQueue DeleteQueue GetQueueAttributes GetQueueUrl ListQueueTags "
    "SetQueueAttributes TagQueue UntagQueue",
    "AWS::SQS::QueuePolicy": "sqs: GetQueueAttributes GetQueueUrl SetQueueAttributes",
}
# What a property needs besides; "" for those that the actions above carry.
BY_PROPERTY = {
    "AWS::ApiGatewayV2::Api": {"Body": ""},
    "AWS::ApiGatewayV2::Stage": {
        "AccessLogSettings": "logs: CreateLogDelivery DeleteLogDelivery DescribeLogGroups "
        "DescribeResourcePolicies GetLogDelivery ListLogDeliveries PutResourcePolicy UpdateLogDelivery",
        **dict.fromkeys(
            ("ApiId", "AutoDeploy", "DefaultRouteSettings", "RouteSettings", "StageName", "Tags"), ""
        ),
    },
    "AWS::Budgets::Budget": {"Budget": "", "NotificationsWithSubscribers": ""},
    "AWS::CloudWatch::Alarm": dict.fromkeys(
        (
            "AlarmActions", "AlarmDescription", "AlarmName", "ComparisonOperator", "DatapointsToAlarm",
            "Dimensions", "EvaluationPeriods", "ExtendedStatistic", "MetricName", "Namespace", "Period",
            "Statistic", "Threshold", "TreatMissingData",
        ),
        "",
    ),
    "AWS::CloudWatch::Dashboard": {"DashboardBody": "", "DashboardName": ""},
    "AWS::DynamoDB::Table": {
        "PointInTimeRecoverySpecification": "dynamodb: UpdateContinuousBackups",
        **dict.fromkeys(("AttributeDefinitions", "BillingMode", "GlobalSecondaryIndexes", "KeySchema"), ""),
        "SSESpecification": "",  # under the AWS managed key, which needs no right of the caller
    },
    "AWS::IAM::Policy": {"PolicyDocument": "", "PolicyName": "", "Roles": ""},
    "AWS::IAM::Role": {
        "AssumeRolePolicyDocument": "",
        "Policies": "iam: DeleteRolePolicy GetRolePolicy PutRolePolicy",
    },
    "AWS::Lambda::EventSourceMapping": dict.fromkeys(
        ("BatchSize", "Enabled", "EventSourceArn", "FunctionName", "FunctionResponseTypes", "ScalingConfig"),
        "",
    ),
    "AWS::Lambda::Function": {
        "RecursiveLoop": "lambda: GetFunctionRecursionConfig PutFunctionRecursionConfig",
        "Role": "iam: PassRole",
        "Layers": "lambda: GetLayerVersion",
        "Code": "s3: GetObject GetObjectVersion",
        **dict.fromkeys(
            (
                "Architectures", "Description", "Environment", "FunctionName", "Handler", "LoggingConfig",
                "MemorySize", "PackageType", "Runtime", "Tags", "Timeout",
            ),
            "",
        ),
    },
    "AWS::Lambda::LayerVersion": {
        "Content": "s3: GetObject GetObjectVersion",
        **dict.fromkeys(("CompatibleArchitectures", "CompatibleRuntimes", "Description", "LayerName"), ""),
    },
    "AWS::Lambda::Permission": dict.fromkeys(("Action", "FunctionName", "Principal", "SourceArn"), ""),
    "AWS::Logs::LogGroup": {
        "LogGroupName": "",
        "RetentionInDays": "logs: DeleteRetentionPolicy PutRetentionPolicy",
    },
    "AWS::Logs::MetricFilter": dict.fromkeys(("FilterPattern", "LogGroupName", "MetricTransformations"), ""),
    "AWS::Logs::QueryDefinition": dict.fromkeys(("LogGroupNames", "Name", "QueryString"), ""),
    "AWS::S3::Bucket": {
        "BucketEncryption": "s3: GetEncryptionConfiguration PutEncryptionConfiguration",
        "BucketName": "",
        "CorsConfiguration": "s3: GetBucketCORS PutBucketCORS",
        "LifecycleConfiguration": "s3: GetLifecycleConfiguration PutLifecycleConfiguration",
        "NotificationConfiguration": "s3: GetBucketNotification PutBucketNotification",
        "OwnershipControls": "s3: GetBucketOwnershipControls PutBucketOwnershipControls",
        "PublicAccessBlockConfiguration": "s3: GetBucketPublicAccessBlock PutBucketPublicAccessBlock",
        "VersioningConfiguration": "s3: GetBucketVersioning PutBucketVersioning",
    },
    "AWS::S3::BucketPolicy": {"Bucket": "", "PolicyDocument": ""},
    "AWS::SNS::Subscription": {"Endpoint": "", "Protocol": "", "TopicArn": "sns: Subscribe"},
    "AWS::SNS::Topic": {"TopicName": ""},
    "AWS::SNS::TopicPolicy": {"PolicyDocument": "", "Topics": ""},
    "AWS::SQS::Queue": dict.fromkeys(
        (
            "MaximumMessageSize", "MessageRetentionPeriod", "QueueName", "RedriveAllowPolicy",
            "RedrivePolicy", "SqsManagedSseEnabled", "VisibilityTimeout",
        ),
        "",
    ),
    "AWS::SQS::QueuePolicy": {"PolicyDocument": "", "Queues": ""},
}  # fmt: skip
SAMS_BUCKET = "arn:aws:s3:::aws-sam-cli-managed-default-samclisourcebucket-1abc/code"
LAYER = f"arn:aws:lambda:{REGION}:{ACCOUNT}:layer:STACK-cytomask"
# Actions whose resource is not the one of the template that needs them.
ELSEWHERE = {
    "iam:PassRole": f"arn:aws:iam::{ACCOUNT}:role/STACK-SegmentRole-1ABC",
    "lambda:GetLayerVersion": f"{LAYER}:1",
    "lambda:DeleteLayerVersion": f"{LAYER}:1",
    "lambda:PublishLayerVersion": LAYER,
    "s3:GetObject": SAMS_BUCKET,
    "s3:GetObjectVersion": SAMS_BUCKET,
    "sns:Subscribe": f"arn:aws:sns:{REGION}:{ACCOUNT}:STACK-alarms",
}
# The ARN of each type that has one: NAME is the property NAME_OF, ID what CloudFormation makes up.
HERE = f"{REGION}:{ACCOUNT}"
ARNS = {
    "ApiGatewayV2::Api": f"arn:aws:apigateway:{REGION}::/apis/1abc",
    "ApiGatewayV2::Stage": f"arn:aws:apigateway:{REGION}::/apis/1abc/stages/$default",
    "Budgets::Budget": f"arn:aws:budgets::{ACCOUNT}:budget/STACK-monthly",
    "CloudWatch::Alarm": f"arn:aws:cloudwatch:{HERE}:alarm:NAME",
    "CloudWatch::Dashboard": f"arn:aws:cloudwatch::{ACCOUNT}:dashboard/STACK",
    "DynamoDB::Table": f"arn:aws:dynamodb:{HERE}:table/STACK-ID",
    "IAM::Role": f"arn:aws:iam::{ACCOUNT}:role/STACK-ID",
    "Lambda::EventSourceMapping": f"arn:aws:lambda:{HERE}:event-source-mapping:1",
    "Lambda::Function": f"arn:aws:lambda:{HERE}:function:NAME",
    "Logs::LogGroup": f"arn:aws:logs:{HERE}:log-group:NAME",
    "S3::Bucket": "arn:aws:s3:::NAME",
    "SNS::Topic": f"arn:aws:sns:{HERE}:NAME",
    "SQS::Queue": f"arn:aws:sqs:{HERE}:NAME",
}
NAME_OF = {
    "CloudWatch::Alarm": "AlarmName",
    "Lambda::Function": "FunctionName",
    "Logs::LogGroup": "LogGroupName",
    "S3::Bucket": "BucketName",
    "SNS::Topic": "TopicName",
    "SQS::Queue": "QueueName",
}
# Parts of another resource, and the property that names it.
PART_OF = {
    "IAM::Policy": "Roles",
    "Lambda::Permission": "FunctionName",
    "Logs::MetricFilter": "LogGroupName",
    "S3::BucketPolicy": "Bucket",
    "SNS::TopicPolicy": "Topics",
    "SQS::QueuePolicy": "Queues",
}
# Actions that docs/deploy.md says reach beyond the stack: they name nothing, or an id that AWS makes up.
BEYOND = re.compile(
    r"apigateway:.*|cloudwatch:.*Alarm.*|cloudwatch:.*Resource"
    r"|lambda:(ListTags|.*Resource|.*EventSourceMapping)"
    r"|logs:.*(LogDeliver|QueryDefinition|Resource|LogGroups).*"
    r"|sns:(.*SubscriptionAttributes|Unsubscribe)|s3:GetObject.*"
)


def deployer(stack: str) -> list[Node]:
    text = Template((FOLDER / "deployer.json").read_text()).substitute(
        StackName=stack, AccountId=ACCOUNT, Region=REGION, Images=stack.replace("-", "")
    )
    statements: list[Node] = json.loads(text)["Statement"]
    return statements


def listed(item: Any) -> list[Any]:
    return item if isinstance(item, list) else [item]


def allows(statements: list[Node], action: str, resource: str, function: str = "") -> bool:
    """Tell whether one statement has an action on a resource, for a queue mapping of a function."""
    return any(
        any(fnmatchcase(action, each) for each in statement["Action"])
        and any(fnmatchcase(resource, each) for each in listed(statement["Resource"]))
        and (
            "ArnEquals" not in statement.get("Condition", {})
            or function in statement["Condition"]["ArnEquals"]["lambda:FunctionArn"]
        )
        for statement in statements
    )


def needs(resources: Node) -> Iterator[tuple[str, Node, str]]:
    """Yield every action that a resource needs: its logical id, the resource, the action."""
    for name, resource in resources.items():
        for text in (
            ALWAYS[resource["Type"]],
            *(BY_PROPERTY[resource["Type"]][each] for each in resource["Properties"]),
        ):
            service, _, actions = text.partition(": ")
            for action in actions.split():
                yield name, resource, f"{service}:{action}"


def address(name: str, resource: Node, action: str, stack: str, resources: Node) -> str:
    """Return the ARN that IAM looks up for an action on a resource of a stack."""
    kind = resource["Type"].removeprefix("AWS::")
    if action in ELSEWHERE:
        found = ELSEWHERE[action]
    elif kind in PART_OF:
        written = resource["Properties"][PART_OF[kind]]
        [other] = [str(each["Ref"]) for each in listed(written)[:1]]
        return address(other, resources[other], action, stack, resources)
    elif (kind == "ApiGatewayV2::Stage" and action.startswith("logs:")) or (
        kind == "Lambda::EventSourceMapping" and not re.fullmatch(r"lambda:(.*Resource|ListTags)", action)
    ):
        found = "*"
    else:
        # The tags' actions are the only ones on a log group whose ARN does not end in ":*".
        end = ":*" if action.startswith("logs:") and not action.endswith("Resource") else ""
        found = ARNS[kind] + end if kind in ARNS else "*"  # subscriptions and saved queries have no names
    given = resource["Properties"].get(NAME_OF.get(kind, ""), "")
    given = given.get("Fn::Sub", stack) if isinstance(given, dict) else given
    for variable, value in {
        "NAME": given,
        "ID": f"{name}-1ABC",
        "STACK": stack,
        "${AWS::StackName}": stack,
        "${AWS::AccountId}": ACCOUNT,
        "${AWS::Region}": REGION,
    }.items():
        found = found.replace(variable, value)
    return found


@pytest.fixture(scope="module")
def made(resources: Node) -> Node:
    """Everything that CloudFormation makes; the emulator's copy lacks the budget."""
    return resources | {"Budget": load_template()["Resources"]["Budget"]}


def test_every_property_in_the_template_is_looked_up_here(made: Node) -> None:
    unknown = {
        f"{resource['Type']}.{each}"
        for resource in made.values()
        for each in resource["Properties"]
        if each not in BY_PROPERTY[resource["Type"]]
    }
    assert not unknown, "add the actions that it needs to BY_PROPERTY and infra/policies/deployer.json"


@pytest.mark.parametrize("stack", ["cytomask", "cytomask-test"])
def test_the_deployer_has_every_action_that_a_property_needs(made: Node, stack: str) -> None:
    rights = deployer(stack)
    missing = set()
    for name, resource, action in needs(made):
        function = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{stack}-segment"
        where = address(name, resource, action, stack, made)
        if not allows(rights, action, where, function):
            missing.add(f"{action} on {where}")
    assert not missing


def test_the_deployer_has_no_right_on_a_stack_whose_name_begins_alike(made: Node) -> None:
    rights, other = deployer("cytomask"), "cytomask-test"
    reached = set()
    for name, resource, action in needs(made):
        function = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{other}-segment"
        where = address(name, resource, action, other, made)
        if not BEYOND.fullmatch(action) and allows(rights, action, where, function):
            reached.add(f"{action} on {where}")
    assert not reached
    stacks = f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack"
    for name in (other, f"{other}-1a2b3c4d-CompanionStack"):
        assert not allows(rights, "cloudformation:DeleteStack", f"{stacks}/{name}/1")
    assert allows(rights, "cloudformation:DeleteStack", f"{stacks}/cytomask-1a2b3c4d-CompanionStack/1")


@pytest.mark.parametrize(("stack", "allowed"), [("cytomask-test", True), ("cytomask", False)])
def test_the_deployer_pushes_into_sams_repository_of_its_own_stack(stack: str, allowed: bool) -> None:
    # SAM leaves the hyphens out (samcli/lib/bootstrap/companion_stack/data_types.py).
    repository = f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/cytomasktest1a2b3c4d/segmentfunction5e6f7a8brepo"
    assert allows(deployer(stack), "ecr:PutImage", repository) == allowed


def test_a_role_is_handed_to_lambda_only() -> None:
    [statement] = [each for each in deployer("cytomask") if "iam:*Role" in each["Action"]]
    assert statement["Condition"] == {"StringEqualsIfExists": {"iam:PassedToService": "lambda.amazonaws.com"}}
