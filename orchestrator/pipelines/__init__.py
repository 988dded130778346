"""Every pipeline type there is: a family is a file here, and a line in `TYPES`.

validate                a provisioning body to a Request
stack_of, of_stack      the stack that stands for a pipeline, and the type of a stack
name_in                 type and model of a stack, for people
"""

import json

from orchestrator import contract
from orchestrator.contract import BadRequest, Request
from orchestrator.pipelines import batch, monitors, realtime
from orchestrator.pipelines.family import PipelineType

TYPES: dict[str, PipelineType] = {
    **realtime.TYPES,
    **batch.TYPES,
    **monitors.TYPES,
}

# The original's other types: we do not provision them, but its clients ask for their status.
ORIGINALS_SUFFIXES = {
    "model_training_builtin": "modeltraining",
    "model_tuner_builtin": "tunertraining",
    "model_autopilot_training": "autopilottraining",
}
SUFFIXES = ORIGINALS_SUFFIXES | {name: kind.stack_suffix for name, kind in TYPES.items()}


def validate(body: dict) -> Request:
    """Check a provisioning body, and clean its values.

    Raises BadRequest with the first thing that is wrong, in the original's order: the
    type, then missing keys, then values.
    """
    name = body.get("pipeline_type")
    if not isinstance(name, str) or name not in TYPES:
        raise BadRequest(contract.WRONG_TYPE)
    kind = TYPES[name]
    required = dict(kind.required)
    if kind.by_problem:
        problem = body.get("problem_type")
        problem = problem.strip() if isinstance(problem, str) else None
        if problem not in kind.by_problem:
            raise BadRequest(monitors.WRONG_PROBLEM)
        required |= {"problem_type": contract.one_of((problem,)), **kind.by_problem[problem]}
        body = body | {"problem_type": problem}
    for key in required:
        if key not in body:
            raise BadRequest(contract.MISSING_KEY.format(key))
    for key, reason in kind.refused.items():
        if key in body:
            raise BadRequest(f"Bad request. {key} {reason}")
    checks = {**kind.optional, **required}
    values = {
        key: check(key, _text(kind, body, key)) if key in body else ""
        for key, check in checks.items()
    }
    kind.check_together(values)
    model_name = values["model_name"].strip()
    return Request(name, model_name, contract.stack_name(model_name, kind.stack_suffix), values)


def _text(kind: PipelineType, body: dict, key: str) -> str:
    """A value as text; what may be a number or an object is written as JSON has it."""
    value = body[key]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if (key in kind.numbers and is_number) or (key in kind.objects and isinstance(value, dict)):
        return json.dumps(value)
    if key in kind.objects:
        raise BadRequest(f"Bad request. {key} must be a JSON object, not {json.dumps(value)[:100]}")
    return contract.text(body, key)


def stack_of(pipeline_type: str, model_name: str) -> str:
    """The name of a pipeline's stack; KeyError for a type that nobody knows."""
    return contract.stack_name(model_name, SUFFIXES[pipeline_type])


def name_in(stack_name: str) -> tuple[str, str] | None:
    """The type and the model's name that `stack_of` made a stack's name from, None for any other."""
    for kind, suffix in SUFFIXES.items():
        end = f"-{suffix}-codepipeline"
        if stack_name.startswith(f"{contract.STACK_PREFIX}-") and stack_name.endswith(end):
            return kind, stack_name[len(contract.STACK_PREFIX) + 1 : -len(end)]
    return None


def of_stack(stack_name: str) -> PipelineType | None:
    """The pipeline type that a stack of this name was made by, None when it is no pipeline."""
    if not stack_name.startswith(f"{contract.STACK_PREFIX}-"):
        return None
    for kind in TYPES.values():
        if stack_name.endswith(f"-{kind.stack_suffix}-codepipeline"):
            return kind
    return None
