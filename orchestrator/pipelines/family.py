"""What a pipeline type is to the orchestrator. A family is a file beside this one, with one or
more of these in it; the registry in `__init__.py` has a line for each.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from orchestrator.contract import Check, Request
from orchestrator.environment import Site


def nothing_more(values: dict[str, str]) -> None:
    """For types whose values need no check of one against another."""


def never(outputs: dict[str, str]) -> bool:
    return False


def no_difference(outputs: dict[str, str], template: dict) -> None:
    return None


@dataclass(frozen=True)
class PipelineType:
    """One `pipeline_type` of the contract.

    `plan` makes the complete CloudFormation template of a pipeline, every value resolved, from a
    request, the site, and the addresses of the immutable copies of its artifacts, by key.
    """

    stack_suffix: str
    required: Mapping[str, Check]  # in the order in which they are checked
    plan: Callable[[Request, Site, Mapping[str, str]], dict]
    optional: Mapping[str, Check] = field(default_factory=dict)
    # By problem_type, where the type has one: what it requires besides.
    by_problem: Mapping[str, Mapping[str, Check]] = field(default_factory=dict)
    numbers: tuple[str, ...] = ()  # keys whose value may be a number, too
    objects: tuple[str, ...] = ()  # keys whose value is a JSON object
    # Keys of the original that ours does not honour, with the reason.
    refused: Mapping[str, str] = field(default_factory=dict)
    # Raises BadRequest where values do not go together.
    check_together: Callable[[dict[str, str]], None] = nothing_more
    # Keys that name an object in the assets bucket, of which the stack gets a copy of its own.
    artifacts: tuple[str, ...] = ()
    # What the orchestrator uploads itself, by the name under which `plan` finds its address.
    shipped: Mapping[str, Callable[[], bytes]] = field(default_factory=dict)
    # Raises BadRequest where something is not there that the values speak of.
    must_be_there: Callable[[dict[str, str]], None] = nothing_more
    # Keys that are `bucket/prefix`; the bucket must be there.
    locations: tuple[str, ...] = ()
    # Keys of which something must be there: `bucket/key`, or `bucket/prefix` of one object or more.
    sources: tuple[str, ...] = ()
    # Whether a request asks for its job again though nothing in it has changed.
    repeats: bool = False
    # From a stack's outputs: must it be deleted, because nothing in it can be updated any more?
    beyond_repair: Callable[[dict[str, str]], bool] = never
    # From a stack's outputs and its template: what runs otherwise than was asked, in words.
    difference: Callable[[dict[str, str], dict], str | None] = no_difference


def attribute(resource: str, name: str) -> dict:
    """CloudFormation's reference to an attribute of another resource."""
    return {"Fn::GetAtt": [resource, name]}
