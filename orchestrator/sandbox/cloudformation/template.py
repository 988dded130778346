"""The template language: what a template may hold, in which order its resources are made, and how
their references to each other are resolved.

Of the language, plans use `Fn::GetAtt` and `Ref`. What else a template holds is refused by name.
"""

import graphlib
import json
from collections.abc import Callable

from orchestrator.sandbox.errors import AwsError

SECTIONS = ("AWSTemplateFormatVersion", "Description", "Metadata", "Resources", "Outputs")
RESOURCE_KEYS = ("Type", "Properties", "DependsOn", "Metadata")
FUNCTIONS = ("Fn::GetAtt", "Ref")
DEPTH = 100

Lookup = Callable[[str, str | None], str]  # logical id and attribute (None: Ref) to the value


def parse(text: str) -> dict:
    """The template in a request; AwsError when it is none."""
    try:
        template = json.loads(text)
    except ValueError:
        raise _bad("the sandbox takes templates in JSON only") from None
    except RecursionError:
        raise _bad("the template is nested too deeply") from None
    if not isinstance(template, dict):
        raise _bad("the template must be an object")
    if _is_deep(template, DEPTH):
        raise _bad("the template is nested too deeply")
    return template


def _is_deep(value: object, left: int) -> bool:
    """Whether a value holds others within others, more than so many."""
    held = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return left == 0 or any(_is_deep(item, left - 1) for item in held)


def check(template: dict, types: Callable[[str], bool]) -> None:
    """AwsError for what the sandbox does not carry out; `types` says which resources it makes."""
    for section in template:
        if section not in SECTIONS:
            raise _bad(f"the sandbox does not honour the section {section}")
    resources = template.get("Resources")
    if not isinstance(resources, dict) or not resources:
        raise _bad("At least one Resources member must be defined.")
    for name, resource in resources.items():
        if not isinstance(resource, dict) or not isinstance(resource.get("Type"), str):
            raise _bad(f"[{name}] every resource must have a Type")
        if not types(resource["Type"]):
            raise _bad(f"Unrecognized resource types: ['{resource['Type']}']")
        for key in resource:
            if key not in RESOURCE_KEYS:
                raise _bad(f"[{name}] the sandbox does not honour {key}")
        if not isinstance(resource.get("Properties", {}), dict):
            raise _bad(f"[{name}] Properties must be an object")
    outputs = template.get("Outputs", {})
    if not isinstance(outputs, dict) or not all(
        isinstance(output, dict) and "Value" in output for output in outputs.values()
    ):
        raise _bad("every output must have a Value")
    for value in [*resources.values(), *outputs.values()]:
        for name in references(value):
            if name not in resources:
                raise _bad(f"Unresolved resource dependencies [{name}]")
    in_order(template)


def references(value: object) -> set[str]:
    """The logical ids that a value refers to, `DependsOn` included."""
    if isinstance(value, list):
        return set().union(*(references(item) for item in value))
    if not isinstance(value, dict):
        return set()
    function = _function(value)
    if function == "Ref":
        return {_name(value["Ref"])}
    if function == "Fn::GetAtt":
        return {_attribute(value["Fn::GetAtt"])[0]}
    found = set().union(*(references(item) for item in value.values()))
    if "Type" in value and "DependsOn" in value:
        names = value["DependsOn"]
        found |= {_name(name) for name in (names if isinstance(names, list) else [names])}
    return found


def in_order(template: dict) -> list[str]:
    """Logical ids, every one after those it refers to."""
    resources = template["Resources"]
    graph = {name: references(resource) & resources.keys() for name, resource in resources.items()}
    try:
        return list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        raise _bad(f"Circular dependency between resources: {error.args[1]}") from None


def resolved(value: object, lookup: Lookup) -> object:
    """`value` with every function replaced by what it stands for."""
    if isinstance(value, list):
        return [resolved(item, lookup) for item in value]
    if not isinstance(value, dict):
        return value
    function = _function(value)
    if function == "Ref":
        return lookup(_name(value["Ref"]), None)
    if function == "Fn::GetAtt":
        return lookup(*_attribute(value["Fn::GetAtt"]))
    return {key: resolved(item, lookup) for key, item in value.items()}


def _function(value: dict) -> str | None:
    """The function that an object is a call of, None when it is plain data."""
    for key in value:
        if key in FUNCTIONS and len(value) == 1:
            return key
        if key.startswith("Fn::") or key == "Condition" and len(value) == 1:
            raise _bad(f"the sandbox does not honour {key}")
    return None


def _attribute(value: object) -> tuple[str, str]:
    parts = value.split(".", 1) if isinstance(value, str) else value
    if not isinstance(parts, list) or len(parts) != 2:
        raise _bad("Fn::GetAtt takes a logical id and an attribute")
    return _name(parts[0]), _name(parts[1])


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise _bad(f"{json.dumps(value)[:100]} is no name")
    return value


def _bad(what: str) -> AwsError:
    return AwsError("ValidationException", f"Template format error: {what}")
