"""What a schedule calls: an operation of the sandbox, with the Input of the schedule as its request.

A target is universal: `arn:aws:scheduler:::aws-sdk:sagemaker:createProcessingJob` is SageMaker's
CreateProcessingJob. Any operation that the sandbox answers can be one, but those that only read, as on
AWS. In the Input, what is in angle brackets stands for what the run knows of itself (CONTEXT).
"""

import json
import re
from collections.abc import Callable

from orchestrator.sandbox.aws.wire import Operation
from orchestrator.sandbox.errors import AwsError

ARN = re.compile(r"arn:aws:scheduler:::aws-sdk:([a-z0-9]+):([a-z][A-Za-z0-9]*)")
# The user guide, "Using universal targets": what begins so is not supported.
READ_ONLY = (
    "get", "describe", "list", "poll", "receive", "search", "scan", "query", "select", "read",
    "lookup", "discover", "validate", "batchGet", "batchDescribe", "batchRead", "transactGet",
    "adminGet", "adminList", "testMigration", "retrieve", "testConnection", "translateDocument",
    "isAuthorized", "invokeModel",
)  # fmt: skip
CONTEXT = ("schedule-arn", "scheduled-time", "execution-id", "attempt-number")
ATTRIBUTE = re.compile(r"<aws\.scheduler\.([^<>]*)>")

# From the name of a service and of its operation to the operation; AwsError when it is not here.
Find = Callable[[str, str], Operation]


def check(target: dict, find: Find) -> None:
    """AwsError for a target that could not be called, whatever the time."""
    arn = ARN.fullmatch(target["Arn"])
    if arn is None:
        message = "The sandbox calls universal targets, arn:aws:scheduler:::aws-sdk:service:action"
        raise _invalid(f"{message}, not {target['Arn'][:200]}.")
    if arn[2].startswith(READ_ONLY):
        raise _invalid(f"A schedule calls nothing that only reads, as {arn[2]} does.")
    for name in ATTRIBUTE.findall(target.get("Input", "")):
        if name not in CONTEXT:
            raise _invalid(f"There is no <aws.scheduler.{name[:50]}> for the Input of a target.")
    _read(target, find, dict.fromkeys(CONTEXT, "1"))


def call(target: dict, find: Find, context: dict[str, str]) -> None:
    """Call a target, by the operation that an HTTP request would call; AwsError is its refusal."""
    operation, request = _read(target, find, context)
    operation.function(request)


def _read(target: dict, find: Find, context: dict[str, str]) -> tuple[Operation, dict]:
    service, action = ARN.fullmatch(target["Arn"]).groups()
    try:
        operation = find(service, action[0].upper() + action[1:])
    except AwsError as error:
        raise _invalid(error.message) from None
    text = ATTRIBUTE.sub(lambda found: context[found[1]], target.get("Input", "{}"))
    try:
        request = json.loads(text)
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict):
        raise _invalid("The Input of the target is no JSON object.")
    try:
        return operation, operation.checked(request)
    except AwsError as error:
        raise _invalid(f"The Input of the target: {error.message}") from None


def _invalid(message: str) -> AwsError:
    return AwsError("ValidationException", message)
