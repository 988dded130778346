"""Requests and answers against the shapes of botocore's service models.

botocore ships, for every AWS service, what a client may send: members, types, which are required,
how long, by which pattern. Here the same models are read from the server's side, so that what AWS
would refuse is refused in its words, and what an operation of the sandbox does not honour is
refused by name.
"""

import base64
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from xml.sax.saxutils import escape

from botocore.model import Shape

from orchestrator.sandbox.errors import clean

DEPTH = 50  # of nested values; no request of AWS's is nearly as deep
NUMBERS = ("integer", "long", "float", "double")


class Invalid(Exception):
    """A request that its operation's shape, or its list of honoured members, does not allow."""


class Honoured:
    """The members of a request that an operation honours, as dotted paths: `Tags`, or
    `PrimaryContainer.Image`. A path honours everything below it, unless longer ones start with it."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._tree: dict = {}
        for path in paths:
            place = self._tree
            for name in path.split("."):
                place = place.setdefault(name, {})

    def paths(self) -> list[str]:
        return _paths(self._tree)

    def check(self, request: dict, operation: str) -> None:
        """Raise Invalid for the first member that is not honoured."""
        self._check(request, self._tree, operation, "")

    def _check(self, value: object, tree: dict, operation: str, where: str) -> None:
        if isinstance(value, list):
            for item in value:
                self._check(item, tree, operation, where)
        elif isinstance(value, dict):
            for name, below in value.items():
                if name not in tree:
                    raise Invalid(f"The sandbox does not honour {where}{name} of {operation}.")
                if tree[name]:
                    self._check(below, tree[name], operation, f"{where}{name}.")


def _paths(tree: dict) -> list[str]:
    """The dotted paths of a tree's leaves."""
    found = []
    for name, below in tree.items():
        found += [f"{name}.{path}" for path in _paths(below)] or [name]
    return found


# -- what comes in --------------------------------------------------------------------


def check(value: object, shape: Shape, where: str = "", depth: int = 0) -> object:
    """The value as its shape has it, a timestamp as datetime; Invalid says what is wrong where.

    `where` is the path so far, in AWS's own manner: `primaryContainer.image`.
    """
    if depth > DEPTH:
        raise Invalid("The request is nested too deeply.")
    kind = shape.type_name
    if kind == "structure":
        return _structure(value, shape, where, depth)
    if kind == "list":
        if not isinstance(value, list):
            raise _wrong_type(value, where, "a list")
        _bounded(len(value), value, shape, where, "length")
        return [check(item, shape.member, f"{where}.{n + 1}.member", depth + 1)
                for n, item in enumerate(value)]  # fmt: skip
    if kind == "map":
        if not isinstance(value, dict):
            raise _wrong_type(value, where, "a map")
        _bounded(len(value), value, shape, where, "length")
        return {
            check(key, shape.key, where, depth + 1): check(item, shape.value, where, depth + 1)
            for key, item in value.items()
        }
    if kind == "string":
        return _string(value, shape, where)
    if kind == "boolean":
        if not isinstance(value, bool):
            raise _wrong_type(value, where, "a boolean")
        return value
    if kind in NUMBERS:
        whole = kind in ("integer", "long")
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise _wrong_type(value, where, "an integer" if whole else "a number")
        _bounded(value, value, shape, where, "value")
        return value
    if kind == "timestamp":
        return _timestamp(value, where)
    raise Invalid(f"The sandbox does not read {kind} values, as at '{where}'.")


def _structure(value: object, shape: Shape, where: str, depth: int) -> dict:
    if not isinstance(value, dict):
        raise _wrong_type(value, where, "a structure")
    members = shape.members
    for name in value:
        if name not in members:
            raise Invalid(f"There is no member {f'{where}.{name}'.lstrip('.')}.")
    for name in shape.required_members:
        if value.get(name) is None:
            raise _constraint(None, _path(where, name), "Member must not be null")
    return {
        name: check(item, members[name], _path(where, name), depth + 1)
        for name, item in value.items()
        if item is not None
    }


def _path(where: str, name: str) -> str:
    return f"{where}.{name[:1].lower()}{name[1:]}".lstrip(".")


def _string(value: object, shape: Shape, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong_type(value, where, "a string")
    choices = shape.metadata.get("enum")
    if choices and value not in choices:
        raise _constraint(value, where, f"Member must satisfy enum value set: {list(choices)}")
    _bounded(len(value), value, shape, where, "length")
    pattern = shape.metadata.get("pattern")
    if pattern and (compiled := _compiled(pattern)) and not compiled.fullmatch(value):
        raise _constraint(
            value, where, f"Member must satisfy regular expression pattern: {pattern}"
        )
    return value


@cache
def _compiled(pattern: str) -> re.Pattern | None:
    """AWS's patterns are Java's; None for the few that Python's `re` does not read."""
    try:
        return re.compile(pattern)
    except re.error:
        return None


def _bounded(size: float, value: object, shape: Shape, where: str, what: str) -> None:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if least is not None and size < least:
        bound = f"Member must have {what} greater than or equal to {least}"
        raise _constraint(value, where, bound)
    if most is not None and size > most:
        raise _constraint(value, where, f"Member must have {what} less than or equal to {most}")


def _timestamp(value: object, where: str) -> datetime:
    try:
        if isinstance(value, str):
            parsed = datetime.fromisoformat(value)
            return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    raise _wrong_type(value, where, "a timestamp")


def _constraint(value: object, where: str, constraint: str) -> Invalid:
    shown = "null" if value is None else f"'{str(value)[:200]}'"
    return Invalid(
        f"1 validation error detected: Value {shown} at '{where}' failed to satisfy constraint: "
        f"{constraint}"
    )


def _wrong_type(value: object, where: str, wanted: str) -> Invalid:
    return Invalid(f"The value at '{where}' must be {wanted}, not {str(value)[:100]!r}.")


# -- from and to the query protocol ---------------------------------------------------


def from_form(form: dict[str, str], shape: Shape, prefix: str = "") -> object:
    """The value of a shape in a query request's form: `Tags.member.1.Key=…`; None if it is absent.

    Raises Invalid for a key that belongs to no member of the operation.
    """
    kind = shape.type_name
    if kind == "structure":
        if prefix.removesuffix(".") in form:
            raise Invalid(f"{prefix.removesuffix('.')} is no plain value.")
        names = {key[len(prefix) :].partition(".")[0] for key in form if key.startswith(prefix)}
        for name in sorted(names - shape.members.keys()):
            raise Invalid(f"There is no member {prefix}{name}.")
        found = {
            name: from_form(form, member, f"{prefix}{name}.")
            for name, member in shape.members.items()
            if name in names
        }
        return found or None
    if kind == "list":
        places = set()
        for key in form:
            found = re.match(rf"{re.escape(prefix)}(member\.([1-9]\d{{0,3}}))?(?:\.|$)", key)
            if key.startswith(prefix) and (not found or not found[1]):
                raise Invalid(f"There is no member {key}.")
            if found and found[1]:
                places.add(int(found[2]))
        return [from_form(form, shape.member, f"{prefix}member.{n}.") for n in sorted(places)]
    if kind == "map":
        return _map_from_form(form, shape, prefix)
    for key in form:
        if key.startswith(prefix):
            raise Invalid(f"There is no member {key}.")
    text = form.get(prefix.removesuffix("."))
    return None if text is None else _plain(text, kind)


def _plain(text: str, kind: str) -> object:
    """What a text says, where it is to be a boolean or a number; itself, for `check` to refuse, where
    it is none."""
    if kind == "boolean" and text in ("true", "false"):
        return text == "true"
    if kind in NUMBERS:
        try:
            return int(text) if kind in ("integer", "long") else float(text)
        except ValueError:
            return text
    return text


def _map_from_form(form: dict[str, str], shape: Shape, prefix: str) -> dict | None:
    """`Attributes.entry.1.key=…&Attributes.entry.1.value=…`

    A map of anything but text no operation honours: it is read only so far as to be refused by name.
    """
    if shape.value.type_name != "string":
        return {key: text for key, text in form.items() if key.startswith(prefix)} or None
    found: dict[str, dict[str, str]] = {}
    for key, text in form.items():
        if not f"{key}.".startswith(prefix):
            continue
        entry = re.fullmatch(r"entry\.([1-9]\d{0,3})\.(key|value)", key[len(prefix) :])
        if not entry:
            raise Invalid(f"There is no member {key}.")
        found.setdefault(entry[1], {})[entry[2]] = text
    names = [entry.get("key") for entry in found.values()]
    if None in names or len(set(names)) < len(names):
        raise Invalid(f"An entry of {prefix.removesuffix('.')} has no key, or another's.")
    return {entry["key"]: entry.get("value", "") for entry in found.values()} or None


def to_xml(value: object, shape: Shape) -> str:
    """The content of a shape's element in an XML answer; members that are None are left out."""
    kind = shape.type_name
    if kind == "structure":
        return "".join(
            f"<{name}>{to_xml(item, shape.members[name])}</{name}>"
            for name, item in value.items()
            if item is not None
        )
    if kind == "list":
        return "".join(f"<member>{to_xml(item, shape.member)}</member>" for item in value)
    if kind == "map":
        return "".join(
            f"<entry><key>{escape(clean(key))}</key><value>{to_xml(item, shape.value)}</value></entry>"
            for key, item in value.items()
        )
    if kind == "boolean":
        return "true" if value else "false"
    if kind == "timestamp":
        return _moment(value).isoformat().replace("+00:00", "Z")
    return escape(clean(str(value)))


# -- from REST ------------------------------------------------------------------------


def from_rest(
    labels: dict[str, str], query: dict[str, list[str]], body: dict, shape: Shape
) -> dict:
    """A request from the labels of its path, its query and the members of its body.

    Raises Invalid for what belongs to no member there. Nothing is read from headers: no operation
    that is answered has a member in one.
    """
    request, asked, sent = {}, dict(query), dict(body)
    for name, member in shape.members.items():
        where, key = (member.serialization.get(part, "") for part in ("location", "name"))
        if where == "uri":
            request[name] = _plain(labels[key or name], member.type_name)
        elif where == "querystring" and key in asked:
            texts = asked.pop(key)
            if member.type_name == "list":
                request[name] = [_plain(text, member.member.type_name) for text in texts]
            elif len(texts) > 1:
                raise Invalid(f"{key} is there twice.")
            else:
                request[name] = _plain(texts[0], member.type_name)
        elif not where and name in sent:
            request[name] = sent.pop(name)
    for name in [*asked, *sent]:
        raise Invalid(f"There is no member {name}.")
    return request


# -- to JSON --------------------------------------------------------------------------


def to_json(value: object, shape: Shape) -> object:
    """A shape's value for a JSON answer; members that are None are left out."""
    kind = shape.type_name
    if kind == "structure":
        return {
            name: to_json(item, shape.members[name])
            for name, item in value.items()
            if item is not None
        }
    if kind == "list":
        return [to_json(item, shape.member) for item in value]
    if kind == "map":
        return {key: to_json(item, shape.value) for key, item in value.items()}
    if kind == "timestamp":
        return _moment(value).timestamp()
    if kind == "blob":
        return base64.b64encode(value).decode()
    return value


def _moment(value: str | datetime) -> datetime:
    return value if isinstance(value, datetime) else datetime.fromisoformat(value)
