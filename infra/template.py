"""Reads template.yaml, the one source of the stack, and points it away from code that is not uploaded."""

import copy
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

TEMPLATE = Path(__file__).resolve().parents[1] / "template.yaml"
NO_CODE = MappingProxyType({"Bucket": "forwarded", "Key": "nothing.zip"})

Template = dict[str, Any]


def load_template(path: Path = TEMPLATE) -> Template:
    """The template with CloudFormation's short tags written out: `!Ref X` as `{"Ref": "X"}`."""
    loaded: Template = yaml.load(path.read_text(encoding="utf-8"), _CloudFormationLoader)
    return loaded


def without_local_code(template: Template) -> Template:
    """A copy for an emulator that forwards invocations, to where the functions' code is.

    Container functions name an image that nobody pulls, zip functions and layers the object `NO_CODE`, and
    every queue holds its messages until its function's mapping is enabled: a message received before the
    code is ready would count as tried.
    """
    copied = copy.deepcopy(template)
    for resource in copied["Resources"].values():
        if resource["Type"] == "AWS::Serverless::LayerVersion":
            resource["Properties"]["ContentUri"] = dict(NO_CODE)
    for function in functions(copied).values():
        properties = function["Properties"]
        if properties.get("PackageType") == "Image":
            properties["ImageUri"] = "forwarded:latest"
        else:
            properties["CodeUri"] = dict(NO_CODE)
        for event in properties.get("Events", {}).values():
            if event["Type"] == "SQS":
                event["Properties"]["Enabled"] = False
    return copied


def functions(template: Template) -> dict[str, Template]:
    """The template's Lambda functions by logical id."""
    resources: dict[str, Template] = template["Resources"]
    return {
        name: resource
        for name, resource in resources.items()
        if resource["Type"] == "AWS::Serverless::Function"
    }


def made_up_environment(template: Template) -> dict[str, str]:
    """The functions' variables for a process that asks nothing of AWS.

    Numbers are the parameters' defaults; the others are addresses that lead nowhere.
    """
    values = {}
    for name, value in template["Globals"]["Function"]["Environment"]["Variables"].items():
        parameter = template["Parameters"].get(value.get("Ref", ""), {})
        is_number = parameter.get("Type") == "Number"
        values[name] = str(parameter["Default"]) if is_number else f"http://127.0.0.1/{name}"
    return values


def routes(template: Template) -> Iterator[tuple[str, str, str]]:
    """The logical id of the function, the method and the path of every route of the HttpApi."""
    for name, function in functions(template).items():
        for event in function["Properties"].get("Events", {}).values():
            if event["Type"] == "HttpApi":
                yield name, event["Properties"]["Method"], event["Properties"]["Path"]


def function_name(function: Template, stack_name: str) -> str:
    """A function's name in a stack; `FunctionName` may use the stack's name and nothing else."""
    written: str | dict[str, str] = function["Properties"]["FunctionName"]
    pattern = written if isinstance(written, str) else written["Fn::Sub"]
    name = pattern.replace("${AWS::StackName}", stack_name)
    if "$" in name:
        raise ValueError(
            f"FunctionName {pattern!r} uses more than ${{AWS::StackName}}; write it with that alone"
        )
    return name


class _CloudFormationLoader(yaml.SafeLoader):
    """YAML with `!Ref`, `!Sub`, `!GetAtt` and their like."""


def _written_out(loader: _CloudFormationLoader, tag: str, node: yaml.Node) -> Template:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    if tag == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {tag if tag in ("Ref", "Condition") else f"Fn::{tag}": value}


_CloudFormationLoader.add_multi_constructor("!", _written_out)  # type: ignore[no-untyped-call]
