"""A template's parameters: what may be given for them, and what is given.

The rules and the words are CloudFormation's (user guide, "Parameters section").
"""

import re
from collections.abc import Callable

from orchestrator.sandbox.cloudformation.functions import text_of
from orchestrator.sandbox.errors import AwsError

KEYS = {
    "Type", "Default", "AllowedValues", "AllowedPattern", "NoEcho", "Description",
    "ConstraintDescription", "MinLength", "MaxLength", "MinValue", "MaxValue",
}  # fmt: skip
LISTS = ("CommaDelimitedList", "List<Number>", "List<String>")
NUMBERS = ("Number", "List<Number>")
TYPES = ("String", "Number", *LISTS)
OF_AN_ACCOUNT = re.compile(r"(List<)?AWS::(EC2|Route53|SSM)::[A-Za-z0-9:<>]+")
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", re.ASCII)
HIDDEN = "****"


def check(declared: object) -> None:
    """AwsError for a Parameters section that CloudFormation would not take."""
    if not isinstance(declared, dict):
        raise _bad_format("every Parameters object must be a map of parameters.")
    for name, spec in declared.items():
        if not re.fullmatch(r"[A-Za-z0-9]{1,255}", name):
            raise _bad_format(f"Parameter name {name} is non alphanumeric.")
        if not isinstance(spec, dict) or not isinstance(spec.get("Type"), str):
            raise _bad_format("Every Parameters object must contain a Type member.")
        for key in spec.keys() - KEYS:
            raise _bad_format(f"Invalid template parameter property '{key}'")
        if OF_AN_ACCOUNT.fullmatch(spec["Type"]):
            raise _bad_format(
                f"the sandbox does not honour the type {spec['Type']} of the parameter {name}."
            )
        if spec["Type"] not in TYPES:
            raise _bad_format(f"Unrecognized parameter type: {spec['Type']}")
        _check_members(spec)


def _check_members(spec: dict) -> None:
    for key in spec.keys() - {"AllowedValues"}:
        if isinstance(spec[key], dict | list):
            raise _bad_format(f"Every {key} member must be a string.")
    for key in spec.keys() & {"MinLength", "MaxLength", "MinValue", "MaxValue"}:
        if not NUMBER.fullmatch(text_of(spec[key])):
            raise _bad_format(f"Every {key} member must be a number.")
    if spec["Type"] not in NUMBERS and (wrong := spec.keys() & {"MinValue", "MaxValue"}):
        raise _bad_format(f"{min(wrong)} is for parameters of the type Number.")
    allowed = spec.get("AllowedValues", [])
    if not isinstance(allowed, list) or any(isinstance(item, dict | list) for item in allowed):
        raise _bad_format("Every AllowedValues member must be a list of strings.")
    try:
        re.compile(text_of(spec.get("AllowedPattern", "")))
    except re.error as error:
        pattern = f"the AllowedPattern {spec['AllowedPattern']} cannot be read: {error}"
        raise _bad_format(pattern) from None


def given(declared: dict, asked: list[dict], previous: dict[str, str] | None) -> dict[str, str]:
    """What stands for each parameter of a template, as text.

    `asked` is a request's Parameters, `previous` what the stack has had, None for a new stack.
    """
    names = [item.get("ParameterKey", "") for item in asked]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise _bad(f"Parameters: {_listed(twice)} are given more than once")
    if unknown := [name for name in names if name not in declared]:
        raise _bad(f"Parameters: {_listed(unknown)} do not exist in the template")
    found = {name: text_of(spec["Default"]) for name, spec in declared.items() if "Default" in spec}
    for item in asked:
        found[item["ParameterKey"]] = _asked(item, previous or {})
    if missing := [name for name in declared if name not in found]:
        raise _bad(f"Parameters: {_listed(missing)} must have values")
    for name, spec in declared.items():
        _check_value(name, spec, found[name])
    return found


def _asked(item: dict, previous: dict[str, str]) -> str:
    name, value = item["ParameterKey"], item.get("ParameterValue")
    if not item.get("UsePreviousValue"):
        if value is None:
            either = "Either a value must be specified or usePreviousValue must be set to true"
            raise _bad(f"Invalid input for parameter key {name}. {either}")
        return value
    if value is not None:
        raise _bad(
            f"Invalid input for parameter key {name}. Cannot specify usePreviousValue as true and "
            "a value"
        )
    if name not in previous:
        raise _bad(
            f"Invalid input for parameter key {name}. Cannot specify usePreviousValue as true for "
            "a parameter key not in the previous template"
        )
    return previous[name]


def _check_value(name: str, spec: dict, value: str) -> None:
    """AwsError for a value, or one of a list, that its parameter does not allow."""
    for item in _items(spec, value):
        for key, is_wrong, words in CONSTRAINTS:
            if key in spec and is_wrong(item, spec):
                raise _refused(name, spec, words.format(spec[key]))
    if "AllowedValues" in spec:
        allowed = [text_of(choice) for choice in spec["AllowedValues"]]
        if any(item not in allowed for item in _items(spec, value)):
            raise _refused(name, spec, f"must be one of [{', '.join(allowed)}]")


def _is_no_number(item: str, spec: dict) -> bool:
    return spec["Type"] in NUMBERS and not NUMBER.fullmatch(item)


def _beyond(key: str, size: Callable[[str], float], sign: int) -> Callable[[str, dict], bool]:
    return lambda item, spec: sign * size(item) > sign * float(spec[key])


CONSTRAINTS: list[tuple[str, Callable[[str, dict], bool], str]] = [
    ("Type", _is_no_number, "must be a number"),
    (
        "AllowedPattern",
        lambda item, spec: not re.fullmatch(text_of(spec["AllowedPattern"]), item),
        "must match pattern {}",
    ),
    ("MinLength", _beyond("MinLength", len, -1), "must contain at least {} characters"),
    ("MaxLength", _beyond("MaxLength", len, 1), "must contain at most {} characters"),
    ("MinValue", _beyond("MinValue", float, -1), "must be a number not less than {}"),
    ("MaxValue", _beyond("MaxValue", float, 1), "must be a number not greater than {}"),
]


def _items(spec: dict, value: str) -> list[str]:
    if spec["Type"] in LISTS:
        return [item.strip() for item in value.split(",")] if value else []
    return [value]


def values(declared: dict, texts: dict[str, str]) -> dict[str, object]:
    """What Ref stands for: a text, or a list of texts."""
    found: dict[str, object] = {}
    for name, spec in declared.items():
        items = _items(spec, texts[name])
        found[name] = items if spec["Type"] in LISTS else items[0]
    return found


def shown(declared: dict, texts: dict[str, str]) -> list[dict]:
    """As DescribeStacks shows them: a NoEcho parameter is hidden."""
    return [
        {"ParameterKey": name, "ParameterValue": HIDDEN if is_hidden(spec) else texts[name]}
        for name, spec in declared.items()
    ]


def declaration(name: str, spec: dict) -> dict:
    """A parameter as ValidateTemplate tells it."""
    default = text_of(spec["Default"]) if "Default" in spec else None
    return {
        "ParameterKey": name,
        "DefaultValue": HIDDEN if default is not None and is_hidden(spec) else default,
        "NoEcho": is_hidden(spec),
        "Description": spec.get("Description"),
    }


def constraints(spec: dict) -> dict:
    """What GetTemplateSummary tells besides."""
    allowed = [text_of(item) for item in spec.get("AllowedValues", [])]
    choice = {"AllowedValues": allowed} if allowed else {}
    return {"ParameterType": spec["Type"], "ParameterConstraints": choice}


def is_hidden(spec: dict) -> bool:
    return text_of(spec.get("NoEcho", False)).lower() == "true"


def _refused(name: str, spec: dict, reason: str) -> AwsError:
    if "ConstraintDescription" in spec:
        described = f"failed to satisfy constraint: {text_of(spec['ConstraintDescription'])}"
        return _bad(f"Parameter {name} {described}")
    return _bad(f"Parameter '{name}' {reason}")


def _listed(names: list[str]) -> str:
    return f"[{', '.join(names)}]"


def _bad(message: str) -> AwsError:
    return AwsError("ValidationException", message)


def _bad_format(what: str) -> AwsError:
    return _bad(f"Template format error: {what}")
