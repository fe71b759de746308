"""The policy files of infra/policies: the rights of each role, and IAM's limits."""

import json
from pathlib import Path
from string import Template
from typing import Any

import pytest

from cytomask.infra.template import TEMPLATE

FOLDER = TEMPLATE.parent / "infra" / "policies"
LONGEST_POLICY = 6144  # characters of a managed policy, without white space
NAMES = {"StackName": "cytomask", "AccountId": "1" * 12, "Region": "ap-southeast-1"}

Policy = dict[str, Any]


def policy(role: str) -> Policy:
    filled: Policy = json.loads(Template((FOLDER / f"{role}.json").read_text()).substitute(NAMES))
    return filled


def actions(role: str) -> set[str]:
    return {
        action
        for statement in policy(role)["Statement"]
        for action in (
            statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        )
    }


@pytest.mark.parametrize("path", FOLDER.glob("*.json"), ids=lambda path: path.stem)
def test_a_policy_fits_iam_and_names_each_statement_once(path: Path) -> None:
    filled = policy(path.stem)
    assert len(json.dumps(filled, separators=(",", ":"))) <= LONGEST_POLICY
    names = [statement["Sid"] for statement in filled["Statement"]]
    assert len(names) == len(set(names))
    assert all(name.isalnum() for name in names)


def test_a_microscope_may_upload_and_nothing_else() -> None:
    assert actions("microscope") == {"s3:PutObject", "s3:AbortMultipartUpload"}


def test_each_role_includes_the_one_below_it() -> None:
    assert actions("microscope") < actions("scientist") < actions("operator")


@pytest.mark.parametrize("role", ["microscope", "scientist", "operator"])
def test_nobody_but_the_deployer_has_every_action_of_a_service_or_touches_roles(role: str) -> None:
    assert not [action for action in actions(role) if action.endswith("*") or action.startswith("iam:")]


def test_a_scientist_changes_neither_rows_nor_masks() -> None:
    changing = {"dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:DeleteItem", "s3:DeleteObject"}
    assert not changing & actions("scientist")
    for statement in policy("scientist")["Statement"]:
        if "s3:PutObject" in statement["Action"]:
            assert not [target for target in statement["Resource"] if "-output-" in target]


def test_the_deployer_may_make_every_kind_of_resource_in_the_template() -> None:
    allowed = actions("deployer")
    for service in (
        "s3",
        "sqs",
        "dynamodb",
        "lambda",
        "iam",
        "apigateway",
        "logs",
        "cloudwatch",
        "sns",
        "ecr",
    ):
        assert [action for action in allowed if action.startswith(f"{service}:")]
    assert "logs:CreateLogDelivery" in allowed  # the HTTP API's access log needs it and no message says so
