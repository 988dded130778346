"""SageMaker's names for things, and its words for what is not there."""

import re

from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.places import ACCOUNT, REGION
from orchestrator.sandbox.state import State

# What there is, by the kind that an ARN names: where it is kept, and what it is called.
KINDS = {
    "model": ("models", "model"),
    "endpoint-config": ("endpoint_configs", "endpoint configuration"),
    "endpoint": ("endpoints", "endpoint"),
    "transform-job": ("transform_jobs", "transform job"),
    "processing-job": ("processing_jobs", "processing job"),
}
OURS = re.compile(rf"arn:aws:sagemaker:{REGION}:{ACCOUNT}:([^/]+)/(.+)")


def arn(kind: str, name: str) -> str:
    return f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:{kind}/{name.lower()}"


def found(state: State, kind: str, name: str) -> dict:
    """The row of a thing; AwsError in SageMaker's words when there is none."""
    table, words = KINDS[kind]
    row = state.row(table, name=name)
    if row is None:
        raise AwsError("ValidationException", f'Could not find {words} "{arn(kind, name)}".')
    return row


def must_be_new(state: State, kind: str, name: str) -> None:
    """Names that differ in case alone are one name: they have one ARN."""
    table, words = KINDS[kind]
    if _is_there(state, table, name):
        taken = f'Cannot create already existing {words} "{arn(kind, name)}".'
        raise AwsError("ValidationException", taken)


def must_exist(state: State, its_arn: str) -> None:
    """AwsError for the ARN of something that is not here, or that the sandbox has none of."""
    parts = OURS.fullmatch(its_arn)
    table, words = KINDS.get(parts[1], (None, parts[1])) if parts else (None, "resource")
    if table is None or not _is_there(state, table, parts[2]):
        raise AwsError("ValidationException", f'Could not find {words} "{its_arn}".')


def _is_there(state: State, table: str, name: str) -> bool:
    return any(row["name"].lower() == name.lower() for row in state.rows(table))
