"""Pipelines' stacks: which there are, what they hold, and how they go, with their copies of models."""

import time
from pathlib import Path

from botocore.exceptions import ClientError

from clients.payloads import load_payload, pipeline_of
from clients.target import Target
from common.errors import TargetError
from orchestrator import artifacts
from orchestrator.contract import STACK_PREFIX

DELETE_SECONDS = 900


def find(target: Target, payload: Path | None) -> list[str]:
    """Names of the stacks to delete."""
    if payload:
        pipeline = pipeline_of(load_payload(payload, target.bucket), payload)
        deployed = pipeline.removesuffix("-codepipeline")  # a second stack, of the original
        return [deployed, pipeline] if target.is_original else [pipeline]
    pages = target.client("cloudformation").get_paginator("describe_stacks").paginate()
    names = [stack["StackName"] for page in pages for stack in page["Stacks"]]
    # The original deploys with a role that lives in the …-codepipeline stack: that goes last.
    mine = [name for name in names if name.startswith(STACK_PREFIX + "-")]
    return sorted(mine, key=lambda name: name.endswith("-codepipeline"))


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
