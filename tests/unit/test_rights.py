"""The rights in the stack that CloudFormation gets, including everything that SAM adds."""

import json
import re
from collections.abc import Iterator
from typing import Any

Node = dict[str, Any]


def statements(node: Any) -> Iterator[Node]:
    """Yield every statement of every policy in a node."""
    if isinstance(node, dict):
        if "Effect" in node:
            yield node
        for part in node.values():
            yield from statements(part)
    if isinstance(node, list):
        for part in node:
            yield from statements(part)


def listed(item: Any) -> list[Any]:
    return item if isinstance(item, list) else [item]


def allowing(resources: Node) -> list[Node]:
    return [each for each in statements(resources) if each["Effect"] == "Allow"]


def test_no_role_may_take_every_action(resources: Node) -> None:
    actions = [action for statement in allowing(resources) for action in listed(statement["Action"])]
    assert len(actions) > 30
    assert [action for action in actions if "*" in action] == []
    assert [statement for statement in allowing(resources) if "NotAction" in statement] == []


def test_no_role_may_act_on_every_resource(resources: Node) -> None:
    targets = [
        target
        for statement in allowing(resources)
        if statement["Action"] != "sts:AssumeRole"
        for target in listed(statement["Resource"])
    ]
    assert len(targets) > 20
    wide = [json.dumps(target) for target in targets if "*" in json.dumps(target)]
    assert [text for text in wide if not is_in_one_bucket(text)] == []
    assert [statement for statement in allowing(resources) if "NotResource" in statement] == []


ALLOWED_BUCKETS = re.compile(
    r'\{"Fn::Split": \[",", \{"Fn::Sub": \["arn:aws:s3:::\$\{Names\}/\*", .*"AllowedBuckets"'
)


def is_in_one_bucket(text: str) -> bool:
    """Whether a target is what lies in one of the stack's buckets, or in a folder of it: by no other word can
    rights name objects."""
    buckets = "InputBucket|OutputBucket|GroundTruthBucket|ModelsBucket"
    own = rf'{{"Fn::Sub": "\$\{{({buckets})\.Arn\}}/(\w+/)*\*"}}'
    return bool(re.fullmatch(own, text) or ALLOWED_BUCKETS.match(text))


def test_policies_admit_only_known_principals(resources: Node) -> None:
    for statement in allowing(resources):
        principal = statement.get("Principal", {})
        assert set(principal) <= {"Service"}
        assert "*" not in json.dumps(principal)


def test_no_role_uses_managed_policies(resources: Node) -> None:
    roles = {name: each["Properties"] for name, each in resources.items() if each["Type"] == "AWS::IAM::Role"}
    assert set(roles) >= {"SegmentRole", "EvaluateRole", "FailuresRole", "ApiRole"}
    for role in roles.values():
        assert "ManagedPolicyArns" not in role
        assert len(role["Policies"]) == 1


def rights_of(role: Node) -> dict[str, list[Any]]:
    """Map each action to its resources."""
    return {
        action: listed(statement["Resource"])
        for statement in allowing(role)
        if "Resource" in statement
        for action in listed(statement["Action"])
    }


def test_the_failures_function_reads_dead_letters_and_sends_nothing(resources: Node) -> None:
    rights = rights_of(resources["FailuresRole"])
    assert rights["sqs:ReceiveMessage"] == [
        {"Fn::GetAtt": [f"{name}DLQ", "Arn"]} for name in ("Segment", "Evaluation")
    ]
    assert not {"sqs:SendMessage", "s3:PutObject", "dynamodb:Scan"} & rights.keys()
    assert rights["s3:DeleteObject"] == [{"Fn::Sub": "${OutputBucket.Arn}/*"}]  # masks of older images


def test_the_api_function_may_not_change_jobs_or_receive_messages(resources: Node) -> None:
    rights = rights_of(resources["ApiRole"])
    assert rights["sqs:SendMessage"] == [{"Fn::GetAtt": ["SegmentQueue", "Arn"]}]
    changing = {"s3:PutObject", "s3:DeleteObject", "dynamodb:UpdateItem", "dynamodb:DeleteItem"}
    assert not (changing | {"sqs:ReceiveMessage", "dynamodb:Scan"}) & rights.keys()


def test_only_the_http_apis_routes_may_invoke_a_function(resources: Node) -> None:
    callers = [each["Properties"] for each in resources.values() if each["Type"] == "AWS::Lambda::Permission"]
    assert {caller["Principal"] for caller in callers} == {"apigateway.amazonaws.com"}
    called = [caller["FunctionName"]["Ref"] for caller in callers]
    assert sorted(called) == ["ApiFunction"] * 6 + ["SegmentFunction"]
    sources = [json.dumps(caller["SourceArn"]) for caller in callers]
    assert all('{"Ref": "HttpApi"}' in source for source in sources)
    plates = ("GET/plates", "GET/plates/*", "GET/plates/*/pages")
    for method_and_path in ("POST/seg_mask", "POST/jobs", "GET/jobs", "GET/jobs/*", *plates):
        assert sum(f'{method_and_path}"' in source for source in sources) == 1


def test_the_table_is_encrypted_and_can_be_restored(resources: Node) -> None:
    table = resources["JobsTable"]["Properties"]
    assert table["SSESpecification"] == {"SSEEnabled": True}
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
