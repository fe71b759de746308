"""The policy files of infra/policies: the rights of each role, and IAM's limits."""

import json
from fnmatch import fnmatchcase
from pathlib import Path
from string import Template
from typing import Any

import pytest

from cytomask.infra.template import TEMPLATE

FOLDER = TEMPLATE.parent / "infra" / "policies"
LONGEST_POLICY = 6144  # characters of a managed policy, without white space
# The longest that docs/deploy.md allows: a bucket's name has 63 characters with these.
NAMES = {
    "StackName": "c" * 22,
    "AccountId": "1" * 12,
    "Region": "ap-southeast-1",
    "Images": "c" * 22,
    "ApiId": "a" * 10,
    "Bucket": "b" * 63,
}

# They name nothing, or a mapping that a condition binds to the stack's function.
OF_NO_NAME = {"lambda:ListEventSourceMappings", "lambda:UpdateEventSourceMapping"}

Policy = dict[str, Any]


def listed(item: Any) -> list[Any]:
    return item if isinstance(item, list) else [item]


def policy(role: str) -> Policy:
    filled: Policy = json.loads(Template((FOLDER / f"{role}.json").read_text()).substitute(NAMES))
    return filled


def actions(role: str) -> set[str]:
    return {action for statement in policy(role)["Statement"] for action in listed(statement["Action"])}


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


@pytest.mark.parametrize("role", ["microscope", "scientist", "operator", "bucket"])
def test_a_persons_rights_end_at_the_names_of_the_stack(role: str) -> None:
    text = (FOLDER / f"{role}.json").read_text()
    own = NAMES | {"StackName": "cytomask", "Bucket": "lab"}
    other = NAMES | {"StackName": "cytomask-test", "ApiId": "z" * 10, "Bucket": "payroll"}
    filled, others = (
        {
            resource
            for statement in json.loads(Template(text).substitute(names))["Statement"]
            if not set(statement["Action"]) <= OF_NO_NAME
            for resource in listed(statement["Resource"])
        }
        for names in (own, other)
    )
    # "cytomask-*" would include the resources of a stack named cytomask-test.
    reached = [each for each in others if any(fnmatchcase(each.replace("*", "x"), one) for one in filled)]
    assert not reached


@pytest.mark.parametrize("role", ["microscope", "scientist", "operator"])
def test_nobody_but_the_deployer_has_every_action_of_a_service_or_touches_roles(role: str) -> None:
    assert not [action for action in actions(role) if action.endswith("*") or action.startswith("iam:")]


def test_a_scientist_changes_neither_rows_nor_masks() -> None:
    changing = {"dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:DeleteItem", "s3:DeleteObject"}
    assert not changing & actions("scientist")
    for statement in policy("scientist")["Statement"]:
        if "s3:PutObject" in statement["Action"]:
            assert not [target for target in statement["Resource"] if "-output-" in target]
