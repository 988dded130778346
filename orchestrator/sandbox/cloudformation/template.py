"""Templates: read from JSON or YAML, checked, and expanded by the parameters of a stack.

What a template holds is honoured as CloudFormation does (user guide, "Template anatomy"), or refused
by name. An expanded template has no parameters, mappings and conditions any more, and of its
functions only those that depend on a resource.
"""

import graphlib
import json
import math
import re
from collections.abc import Callable, Collection
from typing import Any

import yaml

from orchestrator.sandbox.cloudformation import functions, parameters
from orchestrator.sandbox.cloudformation.functions import NO_VALUE, Known, later, references
from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.places import ACCOUNT, REGION

SECTIONS = (
    "AWSTemplateFormatVersion", "Description", "Metadata", "Parameters", "Mappings", "Conditions",
    "Resources", "Outputs",
)  # fmt: skip
# Those that a section or a resource may have on AWS, and that are not carried out here.
NOT_HONOURED = ("Transform", "Rules", "Hooks", "Globals")
RESOURCE_KEYS = (
    "Type", "Properties", "DependsOn", "Metadata", "Condition", "DeletionPolicy",
    "UpdateReplacePolicy",
)  # fmt: skip
RESOURCE_KEYS_NOT_HONOURED = ("CreationPolicy", "UpdatePolicy")
OUTPUT_KEYS = ("Value", "Description", "Condition")
DEPTH = 100
MAX_CHARACTERS = 51_200
PSEUDO = {
    "AWS::AccountId": ACCOUNT, "AWS::Region": REGION, "AWS::Partition": "aws",
    "AWS::URLSuffix": "amazonaws.com", "AWS::NotificationARNs": [], "AWS::NoValue": NO_VALUE,
}  # fmt: skip
OF_A_STACK = ("AWS::StackId", "AWS::StackName")

# The attributes of a type of resource, None for a type that is not made here.
Attributes = Callable[[str], Collection[str] | None]


# -- reading --------------------------------------------------------------------------


class Loader(yaml.SafeLoader):
    """YAML as CloudFormation reads it: dates are text, short forms are functions, no aliases."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise _bad("YAML aliases are not allowed in CloudFormation templates")
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        pairs = [
            (self.construct_object(key, deep=True), self.construct_object(value, deep=True))
            for key, value in node.value
        ]
        return _mapping(pairs)

    def construct_function(self, suffix: str, node: yaml.Node) -> dict:
        """`!GetAtt a.b` is `{"Fn::GetAtt": "a.b"}`."""
        name = suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}"
        if name not in functions.ARGUMENTS:
            raise _bad(f"the sandbox does not honour the tag !{suffix}")
        if isinstance(node, yaml.ScalarNode):
            return {name: node.value}
        if isinstance(node, yaml.SequenceNode):
            return {name: self.construct_sequence(node, deep=True)}
        return {name: self.construct_mapping(node, deep=True)}


def _construct_map(loader: Loader, node: yaml.MappingNode) -> dict:
    return loader.construct_mapping(node)


Loader.add_constructor("tag:yaml.org,2002:map", _construct_map)
Loader.add_multi_constructor("!", Loader.construct_function)


def parse(text: str) -> dict:
    """The template in a request; AwsError when it is none."""
    try:
        template = _read(text)
    except RecursionError:
        raise _bad("the template is nested too deeply") from None
    if not isinstance(template, dict):
        raise _bad("unsupported structure.")
    if _is_deep(template, DEPTH):
        raise _bad("the template is nested too deeply")
    return template


def _read(text: str) -> Any:
    is_json = text.lstrip()[:1] == "{"
    try:
        if is_json:
            return json.loads(text, object_pairs_hook=_mapping)
        return yaml.load(text, Loader)  # noqa: S506 - made of SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _not_well_formed("YAML", mark.line + 1, mark.column + 1) from None
    except (yaml.YAMLError, ValueError) as error:
        line, column = getattr(error, "lineno", 1), getattr(error, "colno", 1)
        raise _not_well_formed("JSON" if is_json else "YAML", line, column) from None


def _mapping(pairs: list[tuple]) -> dict:
    found: dict[str, Any] = {}
    for key, value in pairs:
        name = functions.text_of(key)  # YAML's 80 and true are names here
        if name in found:
            raise _bad(f"the key {name} is there twice")
        found[name] = value
    return found


def _not_well_formed(language: str, line: int, column: int) -> AwsError:
    return _bad(f"{language} not well-formed. (line {line}, column {column})")


def _is_deep(value: object, left: int) -> bool:
    """Whether a value holds others within others, more than so many."""
    held = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return left == 0 or any(_is_deep(item, left - 1) for item in held)


# -- checking -------------------------------------------------------------------------


def check(template: dict, attributes: Attributes) -> None:
    """AwsError for what the sandbox does not carry out, or CloudFormation would not take."""
    for section in NOT_HONOURED:
        if section in template:
            raise _bad(f"the sandbox does not honour the section {section}")
    if unknown := [section for section in template if section not in SECTIONS]:
        raise _invalid(f"Invalid template property or properties [{', '.join(unknown)}]")
    if template.get("AWSTemplateFormatVersion", "2010-09-09") != "2010-09-09":
        raise _bad("the AWSTemplateFormatVersion is 2010-09-09.")
    if not isinstance(template.get("Description", ""), str):
        raise _bad("Every Description member must be a string.")
    _check_values(template, "")
    parameters.check(template.get("Parameters", {}))
    for name in ("Mappings", "Conditions", "Outputs"):
        if not isinstance(template.get(name, {}), dict):
            raise _bad(f"every {name} object must be a map.")
    _check_resources(template, attributes)
    _check_outputs(template)
    _check_names(template, attributes)
    in_order(template)


def _check_values(value: object, where: str) -> None:
    """AwsError for what no part of a template may hold."""
    if value is None:
        raise _bad(f"[{where}] 'null' values are not allowed in templates")
    is_number = isinstance(value, int | float) and math.isfinite(value)
    if not is_number and not isinstance(value, str | dict | list):
        raise _bad(f"[{where}] {value!r:.50} is no value of a template")
    if isinstance(value, str) and "{{resolve:" in value:
        raise _bad(f"[{where}] the sandbox does not honour dynamic references")
    if isinstance(value, dict):
        for key, item in value.items():
            _check_values(item, f"{where}/{key}")
    if isinstance(value, list):
        for n, item in enumerate(value):
            _check_values(item, f"{where}/{n}")


def _check_resources(template: dict, attributes: Attributes) -> None:
    resources = template.get("Resources")
    if not isinstance(resources, dict) or not resources:
        raise _bad("At least one Resources member must be defined.")
    for name, resource in resources.items():
        if not re.fullmatch(r"[A-Za-z0-9]{1,255}", name):
            raise _bad(f"Resource name {name} is non alphanumeric.")
        if not isinstance(resource, dict) or not isinstance(resource.get("Type"), str):
            raise _bad(f"[/Resources/{name}] Every Resources object must contain a Type member.")
        if attributes(resource["Type"]) is None:
            raise _bad(f"Unrecognized resource types: [{resource['Type']}]")
        for key in resource:
            if key in RESOURCE_KEYS_NOT_HONOURED:
                raise _bad(f"[/Resources/{name}] the sandbox does not honour {key}")
            if key not in RESOURCE_KEYS:
                raise _invalid(f"Invalid template resource property '{key}'")
        if not isinstance(resource.get("Properties", {}), dict):
            raise _bad(f"[/Resources/{name}/Properties] Properties must be an object")
        for key in ("DeletionPolicy", "UpdateReplacePolicy"):
            if resource.get(key, "Delete") != "Delete":
                policy = f"the sandbox does not honour the {key} {json.dumps(resource[key])}"
                raise _bad(f"[/Resources/{name}] {policy}")
        for other in _depends_on(resource):
            if not isinstance(other, str):
                raise _bad(f"[/Resources/{name}] Every DependsOn value must be a string.")


def _check_outputs(template: dict) -> None:
    for name, output in template.get("Outputs", {}).items():
        if not re.fullmatch(r"[A-Za-z0-9]{1,255}", name):
            raise _bad(f"Output name {name} is non alphanumeric.")
        if not isinstance(output, dict) or "Value" not in output:
            raise _bad(f"[/Outputs/{name}] Every Outputs member must contain a Value object")
        for key in output:
            if key not in OUTPUT_KEYS:
                raise _bad(f"[/Outputs/{name}] the sandbox does not honour {key}")
        if not isinstance(output.get("Description", ""), str):
            raise _bad("Every Description member must be a string.")


def _check_names(template: dict, attributes: Attributes) -> None:
    """AwsError for a resource, parameter, condition or attribute that is spoken of and not there."""
    resources, conditions = template["Resources"], template.get("Conditions", {})
    values = {*template.get("Parameters", {}), *PSEUDO, *OF_A_STACK}
    blocks = {"Resources": resources, "Outputs": template.get("Outputs", {})}
    for block, members in blocks.items():
        for name, attribute in functions.references_with_attributes(_without_metadata(members)):
            if name not in resources and (attribute is not None or name not in values):
                raise _unresolved(name, block)
            if attribute is not None and attribute not in attributes(resources[name]["Type"]):
                raise functions.bad(
                    f"resource {name} does not support attribute type {attribute} in Fn::GetAtt"
                )
        for member in members.values():
            if (condition := member.get("Condition", None)) is not None:
                _require_condition(condition, conditions)
        for function, argument in functions.calls(_without_metadata(members)):
            if function == "Fn::If":
                _require_condition(argument[0], conditions)
    for resource in resources.values():
        for name in _depends_on(resource):
            if name not in resources:
                raise _unresolved(name, "Resources")
    for function, argument in functions.calls(list(conditions.values()), in_condition=True):
        if function == "Condition":
            _require_condition(argument, conditions)


def _require_condition(name: object, conditions: dict) -> None:
    if not isinstance(name, str):
        raise _bad("Every Condition member must be a string.")
    if name not in conditions:
        raise _bad(f"Unresolved condition dependency {name} in the template")


def _unresolved(name: str, block: str) -> AwsError:
    return _bad(f"Unresolved resource dependencies [{name}] in the {block} block of the template")


def _without_metadata(members: dict) -> list[dict]:
    return [{k: v for k, v in member.items() if k != "Metadata"} for member in members.values()]


def _depends_on(resource: dict) -> list:
    names = resource.get("DependsOn", [])
    return names if isinstance(names, list) else [names]


def in_order(template: dict) -> list[str]:
    """Logical ids, every one after those it refers to."""
    resources = template["Resources"]
    graph = {
        name: (references(resource.get("Properties", {})) | set(_depends_on(resource)))
        & resources.keys()
        for name, resource in resources.items()
    }
    try:
        return list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        cycle = ", ".join(sorted(set(error.args[1])))
        raise _invalid(f"Circular dependency between resources: [{cycle}]") from None


# -- expanding ------------------------------------------------------------------------


def expand(template: dict, texts: dict[str, str], stack_id: str) -> dict:
    """What a checked template comes to for a stack, by the `texts` of its parameters."""
    own = dict(zip(OF_A_STACK, (stack_id, stack_id.split("/")[1]), strict=True))
    values = parameters.values(template.get("Parameters", {}), texts)
    known = Known(
        PSEUDO | own | values, template.get("Mappings", {}), template.get("Conditions", {})
    )
    for name in known.conditions:
        known.is_true(name)
    expanded = {key: template[key] for key in ("Description", "Metadata") if key in template}
    for block in ("Resources", "Outputs"):
        expanded[block] = {
            name: _expanded(member, known)
            for name, member in template.get(block, {}).items()
            if "Condition" not in member or known.is_true(member["Condition"])
        }
    for name, output in expanded["Outputs"].items():
        if isinstance(output["Value"], list | dict) and not functions.call(output["Value"]):
            must = "The Value field of every Outputs member must evaluate to a String."
            raise _bad(f"[/Outputs/{name}] {must}")
    resources = expanded["Resources"]
    for block in ("Resources", "Outputs"):
        for name in references(_without_metadata(expanded[block])) - resources.keys():
            raise _unresolved(name, block)
    for resource in resources.values():
        if "DependsOn" in resource:  # what a condition leaves out need not be waited for
            resource["DependsOn"] = [n for n in _depends_on(resource) if n in resources]
    return expanded


def _expanded(member: dict, known: Known) -> dict:
    kept = {key: value for key, value in member.items() if key != "Condition"}
    for key in kept.keys() & {"Properties", "Value"}:
        kept[key] = functions.resolved(kept[key], later, known)
    if kept.get("Value") is NO_VALUE or kept.get("Properties") is NO_VALUE:
        raise functions.bad("AWS::NoValue stands for a property only.")
    return kept


def _bad(what: str) -> AwsError:
    return _invalid(f"Template format error: {what}")


def _invalid(message: str) -> AwsError:
    return AwsError("ValidationException", message)
