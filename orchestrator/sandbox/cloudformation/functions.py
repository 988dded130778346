"""The template language's functions: what they take, what they refer to, what they stand for.

They are resolved twice. When a stack is asked for, everything that does not depend on a resource is
(`Known`); what is left are `Ref` and `Fn::GetAtt` of resources, and the functions around them, which
are resolved when those resources are made. The rules and the words are those of CloudFormation's user
guide, "Intrinsic function reference".
"""

import base64
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from orchestrator.sandbox.errors import AwsError

Lookup = Callable[[str, str | None], object]  # logical id and attribute (None: Ref) to the value

NO_VALUE = object()  # AWS::NoValue: the property that has it is not there
VARIABLE = re.compile(r"\$\{([^}]*)\}")
VARIABLE_NAME = re.compile(r"[A-Za-z0-9_.:]+")
OF_CONDITIONS = ("Fn::And", "Fn::Equals", "Fn::Not", "Fn::Or")


def _is_function(name: str) -> bool:
    return name == "Ref" or name.startswith("Fn::")


def _is_call_or(kind: type) -> Callable[[object], bool]:
    """For an argument before it is resolved, when it may be a call, and after, when none is left."""
    return lambda value: (
        isinstance(value, kind)
        or isinstance(value, dict) and len(value) == 1 and all(map(_is_function, value))
    )  # fmt: skip


_text, _texts, _index = _is_call_or(str), _is_call_or(list), _is_call_or((str, int))


def _are(*kinds: Callable[[object], bool]) -> Callable[[object], bool]:
    """Whether a value is a list of so many, each of its kind."""
    return lambda value: (
        isinstance(value, list)
        and len(value) == len(kinds)
        and all(kind(item) for kind, item in zip(kinds, value, strict=True))
    )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_attribute(value: object) -> bool:
    parts = value.split(".", 1) if isinstance(value, str) else value
    return _are(_is_name, _is_name)(parts)


def _is_sub(value: object) -> bool:
    pair = _are(_is_name, lambda given: isinstance(given, dict))
    return isinstance(value, str) or pair(value)


def _anything(value: object) -> bool:
    return True


def _some(value: object) -> bool:
    return isinstance(value, list) and 2 <= len(value) <= 10


# What each function takes, and CloudFormation's sentence for anything else.
ARGUMENTS: dict[str, tuple[Callable[[object], bool], str]] = {
    "Ref": (_is_name, "every Ref object must have a single String value."),
    "Fn::GetAtt": (
        _is_attribute,
        "every Fn::GetAtt object requires two non-empty parameters, the resource name and the "
        "resource attribute",
    ),
    "Fn::Sub": (
        _is_sub,
        "One or more Fn::Sub intrinsic functions don't specify expected arguments. Specify a string "
        "as first argument, and an optional second argument to specify a mapping of values to "
        "replace in the string",
    ),
    "Fn::Join": (
        _are(lambda value: isinstance(value, str), _texts),
        "every Fn::Join object requires two parameters, (1) a string delimiter and (2) a list of "
        "strings to be joined or a function that returns a list of strings (such as Fn::GetAZs) to "
        "be joined.",
    ),
    "Fn::Select": (
        _are(_index, _texts),
        "Fn::Select requires a list argument with two elements: an integer index and a list",
    ),
    "Fn::Split": (
        _are(_is_name, _text),
        "every Fn::Split object requires two parameters, (1) a string delimiter and (2) a string to "
        "be split or a function that returns a string to be split.",
    ),
    "Fn::Base64": (_text, "every Fn::Base64 object must have a String-typed value."),
    "Fn::FindInMap": (
        _are(_text, _text, _text),
        "every Fn::FindInMap object requires three parameters, the map name, map key and the "
        "attribute for return value",
    ),
    "Fn::If": (
        _are(_is_name, _anything, _anything),
        "Fn::If requires a list argument with three parameters",
    ),
    "Condition": (_is_name, "every Condition member must be a string."),
    "Fn::Equals": (
        _are(_anything, _anything),
        "every Fn::Equals object requires a list of 2 string parameters.",
    ),
    "Fn::Not": (_are(_anything), "every Fn::Not object requires one boolean parameter."),
    "Fn::And": (
        _some,
        "every Fn::And object requires a list of at least 2 and at most 10 boolean parameters.",
    ),
    "Fn::Or": (
        _some,
        "every Fn::Or object requires a list of at least 2 and at most 10 boolean parameters.",
    ),
}


def call(value: object, in_condition: bool = False) -> tuple[str, object] | None:
    """The function that a value is a call of, and its argument; None when it is plain data.

    AwsError for one that CloudFormation does not know, or with an argument that it does not take.
    """
    if not isinstance(value, dict):
        return None
    for name, argument in value.items():
        if not _is_function(name) and not (in_condition and name == "Condition"):
            continue
        if name not in ARGUMENTS:
            raise bad(f"the sandbox does not honour {name}.")
        if name in OF_CONDITIONS and not in_condition:
            raise bad(f"{name} stands in the Conditions block of a template only.")
        if len(value) > 1:
            raise bad(f"{name} must be the only member of its object.")
        takes, sentence = ARGUMENTS[name]
        if not takes(argument):
            raise bad(sentence)
        return name, argument
    return None


def attribute(argument: str | list) -> tuple[str, str]:
    """The logical id and the attribute that a Fn::GetAtt names."""
    logical_id, name = argument.split(".", 1) if isinstance(argument, str) else argument
    return logical_id, name


def as_join(argument: str | list) -> dict:
    """A Fn::Sub as the Fn::Join that stands for the same: its text, and a Ref, Fn::GetAtt or given
    value for each variable in it."""
    text, given = (argument, {}) if isinstance(argument, str) else argument
    parts: list = []
    for n, part in enumerate(VARIABLE.split(text)):
        if n % 2 == 0:
            parts.append(part)
        elif part.startswith("!"):  # ${!Literal} is ${Literal}
            parts.append(f"${{{part[1:]}}}")
        elif not VARIABLE_NAME.fullmatch(part):
            raise bad(
                "variable names in Fn::Sub syntax must contain only alphanumeric characters, "
                "underscores, periods, and colons"
            )
        elif part in given:
            parts.append(given[part])
        else:
            parts.append({"Fn::GetAtt": part} if "." in part else {"Ref": part})
    return {"Fn::Join": ["", [part for part in parts if part != ""]]}


def calls(value: object, in_condition: bool = False) -> Iterator[tuple[str, object]]:
    """Every function in a value, those in other functions' arguments too; Fn::Sub as what it holds."""
    if isinstance(value, list):
        for item in value:
            yield from calls(item, in_condition)
    elif found := call(value, in_condition):
        name, argument = found
        yield found
        if name == "Fn::Sub":
            yield from calls(as_join(argument), in_condition)
        elif name not in ("Ref", "Fn::GetAtt", "Condition"):
            yield from calls(argument, in_condition)
    elif isinstance(value, dict):
        for item in value.values():
            yield from calls(item, in_condition)


def references(value: object) -> set[str]:
    """The names that a value refers to: resources, parameters, pseudo parameters."""
    return {name for name, _ in references_with_attributes(value)}


def references_with_attributes(value: object) -> set[tuple[str, str | None]]:
    """Likewise, each with the attribute that is asked for; None for a Ref."""
    found: set[tuple[str, str | None]] = set()
    for name, argument in calls(value):
        if name == "Ref":
            found.add((argument, None))
        elif name == "Fn::GetAtt":
            found.add(attribute(argument))
    return found


# -- what they stand for --------------------------------------------------------------


@dataclass
class Known:
    """What is known of a template before any of its resources is made."""

    values: dict[str, object] = field(default_factory=dict)  # parameters, pseudo parameters
    mappings: dict = field(default_factory=dict)
    conditions: dict = field(default_factory=dict)  # as the template has them
    _truths: dict[str, bool | None] = field(default_factory=dict)

    def is_true(self, name: str) -> bool:
        """Whether a condition of the template holds."""
        if name not in self.conditions:
            raise bad(f"unresolved condition dependency {name} in the template")
        if name not in self._truths:
            self._truths[name] = None  # until it is known
            self._truths[name] = self._truth(self.conditions[name])
        if self._truths[name] is None:
            raise bad(f"circular dependency of the condition {name} on itself")
        return self._truths[name]

    def _truth(self, value: object) -> bool:
        found = call(value, in_condition=True)
        if found is None or found[0] not in (*OF_CONDITIONS, "Condition"):
            raise bad("a condition is one of Condition, Fn::And, Fn::Equals, Fn::Not and Fn::Or.")
        name, argument = found
        if name == "Condition":
            return self.is_true(argument)
        if name == "Fn::Equals":
            one, other = (resolved(item, _no_resource, self) for item in argument)
            return text_of(one) == text_of(other)
        truths = [self._truth(item) for item in argument]  # each, so that each is checked
        return {"Fn::Not": not truths[0], "Fn::And": all(truths), "Fn::Or": any(truths)}[name]

    def mapped(self, where: list[str]) -> object:
        value: object = self.mappings
        for key in where:
            if not isinstance(value, dict) or text_of(key) not in value:
                raise bad(f"Unable to get mapping for {'::'.join(map(text_of, where))}")
            value = value[text_of(key)]
        return value


NOTHING = Known()


def resolved(value: object, lookup: Lookup, known: Known = NOTHING) -> object:
    """`value` with every function replaced by what it stands for. One that depends on what `lookup`
    leaves open (`later`) stays a function, with as much of its argument resolved as can be."""
    if isinstance(value, list):
        items = [resolved(item, lookup, known) for item in value]
        return [item for item in items if item is not NO_VALUE]
    found = call(value)
    if found is None:
        if not isinstance(value, dict):
            return value
        pairs = ((key, resolved(item, lookup, known)) for key, item in value.items())
        return {key: item for key, item in pairs if item is not NO_VALUE}
    name, argument = found
    if name == "Ref":
        return known.values[argument] if argument in known.values else lookup(argument, None)
    if name == "Fn::GetAtt":
        return lookup(*attribute(argument))
    if name == "Fn::If":
        condition, if_true, if_false = argument
        return resolved(if_true if known.is_true(condition) else if_false, lookup, known)
    if name == "Fn::Sub":
        return resolved(as_join(argument), lookup, known)
    argument = resolved(argument, lookup, known)
    if name == "Fn::FindInMap":
        return known.mapped(argument)
    if references(argument):
        return {name: argument}
    if not ARGUMENTS[name][0](argument):
        raise bad(ARGUMENTS[name][1])
    return VALUES[name](argument)


def later(logical_id: str, attribute_name: str | None) -> dict:
    """A lookup that leaves resources open."""
    if attribute_name is None:
        return {"Ref": logical_id}
    return {"Fn::GetAtt": [logical_id, attribute_name]}


def _no_resource(logical_id: str, attribute_name: str | None) -> object:
    raise AwsError(
        "ValidationException",
        f"Template format error: Unresolved dependencies [{logical_id}]. Cannot reference "
        "resources in the Conditions block of the template",
    )


def _join(argument: list) -> str:
    delimiter, items = argument
    if any(isinstance(item, dict | list) for item in items):
        raise bad(ARGUMENTS["Fn::Join"][1])
    return delimiter.join(text_of(item) for item in items)


def _select(argument: list) -> object:
    index, items = argument
    if not re.fullmatch(r"[0-9]{1,9}", str(index)) or int(index) >= len(items):
        raise bad(f"Fn::Select cannot select nonexistent value at index {index}")
    return items[int(index)]


VALUES: dict[str, Callable] = {
    "Fn::Join": _join,
    "Fn::Select": _select,
    "Fn::Split": lambda argument: argument[1].split(argument[0]),
    "Fn::Base64": lambda argument: base64.b64encode(argument.encode()).decode(),
}


def text_of(value: object) -> str:
    """As CloudFormation writes a number or a boolean where it needs a text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def bad(what: str) -> AwsError:
    return AwsError("ValidationException", f"Template error: {what}")
