"""SageMaker's names for things, and its words for what is not there."""

from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.places import ACCOUNT, REGION
from orchestrator.sandbox.state import State


def arn(kind: str, name: str) -> str:
    return f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:{kind}/{name.lower()}"


def found(state: State, table: str, kind: str, words: str, name: str) -> dict:
    """The row of a thing; AwsError in SageMaker's words when there is none."""
    row = state.row(table, name=name)
    if row is None:
        raise AwsError("ValidationException", f'Could not find {words} "{arn(kind, name)}".')
    return row


def must_be_new(state: State, table: str, kind: str, words: str, name: str) -> None:
    if state.row(table, name=name) is not None:
        taken = f'Cannot create already existing {words} "{arn(kind, name)}".'
        raise AwsError("ValidationException", taken)
