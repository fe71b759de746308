"""Read template.yaml, the single source of the stack, and remove its local code for an emulator."""

import copy
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

# In a checkout, the repository's file; when installed, the wheel's copy.
TEMPLATE = Path(__file__).resolve().parents[1] / "template.yaml"
NO_CODE = MappingProxyType({"Bucket": "forwarded", "Key": "nothing.zip"})

NOT_EMULATED = frozenset({"AWS::Budgets::Budget"})  # ministack refuses a template that has one

Template = dict[str, Any]


def load_template(path: Path = TEMPLATE) -> Template:
    """Load the template and expand CloudFormation's short tags: `!Ref X` becomes `{"Ref": "X"}`."""
    loaded: Template = yaml.load(path.read_text(encoding="utf-8"), _CloudFormationLoader)
    return loaded


def without_local_code(template: Template) -> Template:
    """Copy the template for an emulator that forwards invocations instead of running code.

    Container functions get the name of an image that is never pulled; zip functions and layers get the
    placeholder object `NO_CODE`. Queue mappings start disabled, because a message received before the
    handlers run would count as an attempt. Resources that ministack refuses are left out.
    """
    copied = copy.deepcopy(template)
    copied["Resources"] = {
        name: resource
        for name, resource in copied["Resources"].items()
        if resource["Type"] not in NOT_EMULATED
    }
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
    """Return the template's Lambda functions by logical id."""
    resources: dict[str, Template] = template["Resources"]
    return {
        name: resource
        for name, resource in resources.items()
        if resource["Type"] == "AWS::Serverless::Function"
    }


def made_up_environment(template: Template) -> dict[str, str]:
    """Make the functions' environment variables for a process that never calls AWS.

    Values from template parameters are the defaults; the others are addresses that nothing serves.
    """
    values = {}
    for name, value in template["Globals"]["Function"]["Environment"]["Variables"].items():
        parameter = template["Parameters"].get(value.get("Ref", ""), {})
        has_default = "Default" in parameter and name != "AWS_ENDPOINT_URL"
        values[name] = str(parameter["Default"]) if has_default else f"http://127.0.0.1/{name}"
    return values


def routes(template: Template) -> Iterator[tuple[str, str, str]]:
    """Yield the logical id of the function, the method and the path of every HTTP route."""
    for name, function in functions(template).items():
        for event in function["Properties"].get("Events", {}).values():
            if event["Type"] == "HttpApi":
                yield name, event["Properties"]["Method"], event["Properties"]["Path"]


def function_name(function: Template, stack_name: str) -> str:
    """Return a function's name in the given stack.

    Raises:
        ValueError: `FunctionName` uses a variable other than the stack's name.
    """
    written: str | dict[str, str] = function["Properties"]["FunctionName"]
    pattern = written if isinstance(written, str) else written["Fn::Sub"]
    name = pattern.replace("${AWS::StackName}", stack_name)
    if "$" in name:
        raise ValueError(f"FunctionName {pattern!r} may use only the variable ${{AWS::StackName}}")
    return name


class _CloudFormationLoader(yaml.SafeLoader):
    """A YAML loader that understands `!Ref`, `!Sub`, `!GetAtt` and the other short tags."""


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
