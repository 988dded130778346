"""Pipelines' stacks: which there are, what they hold, and how they go, with their copies of models."""

import time
from pathlib import Path

from botocore.exceptions import ClientError

from clients.payloads import load_payload, pipeline_of
from clients.target import Target
from common.errors import TargetError
from orchestrator import artifacts
from orchestrator.cloudformation import owner_of
from orchestrator.contract import STACK_PREFIX

DELETE_SECONDS = 900


def find(target: Target, payload: Path | None) -> list[str]:
    """Names of the stacks to delete: the target's own, of an account that may have others'.

    TargetError when a payload's pipeline is another orchestrator's.
    """
    pages = target.client("cloudformation").get_paginator("describe_stacks").paginate()
    there = {stack["StackName"]: stack for page in pages for stack in page["Stacks"]}
    if payload:
        pipeline = pipeline_of(load_payload(payload, target.bucket), payload)
        deployed = pipeline.removesuffix("-codepipeline")  # a second stack, of the original
        wanted = [deployed, pipeline] if target.is_original else [pipeline]
        for name in wanted:
            if name in there and not _is_own(target, there[name]):
                raise _not_own(name, owner_of(there[name]))
        return wanted
    mine = [
        name
        for name, stack in there.items()
        if name.startswith(STACK_PREFIX + "-") and _is_own(target, stack)
    ]
    # The original deploys with a role that lives in the …-codepipeline stack: that goes last.
    return sorted(mine, key=lambda name: name.endswith("-codepipeline"))


def _is_own(target: Target, stack: dict) -> bool:
    """Ours carry their orchestrator's name. The original's carry none, so that of several originals
    in an account nobody knows whose they are. In the sandbox there is one orchestrator."""
    if target.orchestrator is None:
        return True
    return owner_of(stack) == (None if target.is_original else target.orchestrator)


def _not_own(stack: str, owner: str | None) -> TargetError:
    maker = f"the orchestrator {owner}" if owner else "somebody else"
    remedy = f"STACK={owner} make destroy TARGET=aws" if owner else "delete it in the AWS console"
    return TargetError(f"the stack {stack} was made by {maker}", remedy)


def snapshots(target: Target, stack: str) -> list[str]:
    listing = target.client("s3").get_paginator("list_objects_v2")
    pages = listing.paginate(Bucket=target.bucket, Prefix=artifacts.folder(stack))
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


def resources(target: Target, stack: str) -> list[str]:
    """What a stack holds, as `type name`; empty when there is no such stack."""
    try:
        answer = target.client("cloudformation").list_stack_resources(StackName=stack)
    except ClientError:
        return []
    return [
        f"{row['ResourceType']} {row.get('PhysicalResourceId', '')}"
        for row in answer["StackResourceSummaries"]
    ]


def delete_stack(target: Target, stack: str) -> None:
    """Delete a stack and wait until it is gone; one that is not there is no error."""
    cloudformation = target.client("cloudformation")
    try:
        stack_id = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]["StackId"]
    except ClientError as error:
        if "does not exist" in str(error):
            return
        raise
    cloudformation.delete_stack(StackName=stack_id)
    deadline = time.monotonic() + DELETE_SECONDS
    while True:
        state = cloudformation.describe_stacks(StackName=stack_id)["Stacks"][0]
        status = state["StackStatus"]
        if status == "DELETE_COMPLETE":
            return
        if status == "DELETE_FAILED" or time.monotonic() > deadline:
            reason = state.get("StackStatusReason", "")
            raise TargetError(f"{stack} is {status}: {reason}", "make status, and try again")
        time.sleep(0.2 if target.endpoint_url else 2)


def destroy(target: Target, stack: str, keys: list[str]) -> None:
    """Delete a stack, wait until it is gone, then its copies of models."""
    delete_stack(target, stack)
    s3 = target.client("s3")
    for key in keys:
        s3.delete_object(Bucket=target.bucket, Key=key)
