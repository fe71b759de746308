"""Who may do what in the stack as CloudFormation gets it: all that SAM adds is looked at too."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from samtranslator.translator.transform import transform

from infra.template import load_template, without_local_code

Node = dict[str, Any]


class NoManagedPolicies:
    """SAM asks AWS for the names of managed policies; a template that names none needs no answer."""

    def load(self) -> dict[str, str]:
        return {}


@pytest.fixture(scope="module")
def resources() -> Node:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
        template = copy.deepcopy(without_local_code(load_template()))
        found: Node = transform(template, {}, NoManagedPolicies())["Resources"]
        return found


def statements(node: Any) -> Iterator[Node]:
    """Every statement of every policy below a node."""
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


def test_no_right_is_to_do_everything(resources: Node) -> None:
    actions = [action for statement in allowing(resources) for action in listed(statement["Action"])]
    assert len(actions) > 30
    assert [action for action in actions if "*" in action] == []
    assert [statement for statement in allowing(resources) if "NotAction" in statement] == []


def test_no_right_is_on_everything(resources: Node) -> None:
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


def is_in_one_bucket(text: str) -> bool:
    """Whether a target is every object of one of the stack's buckets, for which rights know no other word."""
    inside = text.removeprefix('{"Fn::Sub": "${').removesuffix('.Arn}/*"}')
    return inside in ("InputBucket", "OutputBucket", "GroundTruthBucket")


def test_nobody_unknown_is_let_in(resources: Node) -> None:
    for statement in allowing(resources):
        principal = statement.get("Principal", {})
        assert set(principal) <= {"Service"}
        assert "*" not in json.dumps(principal)


def test_no_role_has_rights_that_others_write(resources: Node) -> None:
    roles = {name: each["Properties"] for name, each in resources.items() if each["Type"] == "AWS::IAM::Role"}
    assert set(roles) >= {"SegmentRole", "EvaluateRole", "FailuresRole"}
    for role in roles.values():
        assert "ManagedPolicyArns" not in role
        assert len(role["Policies"]) == 1


def test_the_failures_function_reads_dead_letters_and_sends_nothing(resources: Node) -> None:
    rights = {
        action: listed(statement["Resource"])
        for statement in allowing(resources["FailuresRole"])
        if "Resource" in statement
        for action in listed(statement["Action"])
    }
    assert rights["sqs:ReceiveMessage"] == [
        {"Fn::GetAtt": [f"{name}DLQ", "Arn"]} for name in ("Segment", "Evaluation")
    ]
    assert not {"sqs:SendMessage", "s3:PutObject", "s3:DeleteObject", "dynamodb:Scan"} & rights.keys()


def test_the_table_is_encrypted_and_can_be_put_back(resources: Node) -> None:
    table = resources["JobsTable"]["Properties"]
    assert table["SSESpecification"] == {"SSEEnabled": True}
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
