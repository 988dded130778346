"""Pipelines are CloudFormation stacks: found, made, brought up to date, deleted, asked about."""

import json
import os
import re
import time

from botocore.exceptions import ClientError

from orchestrator.contract import BadRequest
from orchestrator.environment import client

# A stack in one of these states cannot be updated, only deleted and made again.
DEAD = {
    "CREATE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_FAILED", "UPDATE_FAILED",
    "UPDATE_ROLLBACK_FAILED",
}  # fmt: skip
DELETE_SECONDS = 20  # API Gateway gives up after 29
OWNER = "orchestrator"  # the tag with the name of the orchestrator that made a stack


class Overtaken(Exception):
    """Somebody else has made or deleted the stack meanwhile: look at it again."""


def find(name: str) -> dict | None:
    try:
        return client("cloudformation").describe_stacks(StackName=name)["Stacks"][0]
    except ClientError as error:
        if "does not exist" in error.response["Error"]["Message"]:
            return None
        raise


def owner_of(stack: dict) -> str | None:
    """The orchestrator that made a stack, None for one that carries no name."""
    return next((tag["Value"] for tag in stack.get("Tags", []) if tag["Key"] == OWNER), None)


def is_ours(stack: dict) -> bool:
    ours = os.environ.get("ORCHESTRATOR")
    return ours is None or owner_of(stack) == ours


def must_be_ours(stack: dict) -> None:
    """BadRequest for a stack that somebody else has made: another orchestrator of the account."""
    if not is_ours(stack):
        whose = owner_of(stack)
        maker = f"by the orchestrator {whose}" if whose else "by somebody else"
        raise BadRequest(f"Bad request. The stack {stack['StackName']} was made {maker}")


def template_of(stack: dict) -> dict:
    template = client("cloudformation").get_template(StackName=stack["StackId"])["TemplateBody"]
    return template if isinstance(template, dict) else json.loads(template)


def outputs_of(stack: dict) -> dict[str, str]:
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}


def create(name: str, template: dict) -> dict:
    """Begin to create a stack; Overtaken when there is one of this name."""
    ours = os.environ.get("ORCHESTRATOR")
    tags = {"stack_name": name} | ({OWNER: ours} if ours else {})
    # DO_NOTHING leaves a failed endpoint to be looked at; the next request replaces it.
    try:
        return client("cloudformation").create_stack(
            StackName=name,
            TemplateBody=json.dumps(template),
            Capabilities=["CAPABILITY_IAM"],
            OnFailure="DO_NOTHING",
            Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
            **_role(),
        )
    except ClientError as error:
        if error.response["Error"]["Code"] == "AlreadyExistsException":
            raise Overtaken(name) from None
        raise


def update(stack: dict, template: dict) -> None:
    """Begin to update a stack; Overtaken when it is being deleted, or is no more."""
    try:
        client("cloudformation").update_stack(
            StackName=stack["StackName"],
            TemplateBody=json.dumps(template),
            Capabilities=["CAPABILITY_IAM"],
            **_role(),
        )
    except ClientError as error:
        if re.search("does not exist|DELETE_IN_PROGRESS", error.response["Error"]["Message"]):
            raise Overtaken(stack["StackName"]) from None
        raise


def _role() -> dict:
    role = os.environ.get("CFN_ROLE_ARN")
    return {"RoleARN": role} if role else {}


def delete(stack: dict) -> None:
    """Delete a stack that is of no more use, or is being deleted, and wait until it is gone."""
    cloudformation = client("cloudformation")
    cloudformation.delete_stack(StackName=stack["StackId"], **_role())
    deadline = time.monotonic() + DELETE_SECONDS
    while time.monotonic() < deadline:
        state = cloudformation.describe_stacks(StackName=stack["StackId"])["Stacks"][0]
        if state["StackStatus"] == "DELETE_COMPLETE":
            return
        time.sleep(0.2)
    raise BadRequest(
        f"Bad request. {stack['StackName']} is still being deleted; "
        "send the request again in a minute"
    )


def failure_reasons(stack: dict) -> str:
    """Why the latest create or update failed: the reasons in the stack's own events."""
    events = client("cloudformation").describe_stack_events(StackName=stack["StackId"])
    reasons = []
    for event in events["StackEvents"]:  # the newest first
        state, reason = event["ResourceStatus"], event.get("ResourceStatusReason", "")
        of_stack = event["ResourceType"] == "AWS::CloudFormation::Stack"
        if of_stack and state in ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS"):
            break
        if state.endswith("_FAILED") and not of_stack and reason:
            reasons.append(f"{event['LogicalResourceId']}: {reason}")
    return " ".join(reversed(reasons)) or stack.get("StackStatusReason", "No reason was given.")
