"""Delete pipelines: their stacks, and the copies of models that were made for them.

    python scripts/destroy.py --dry-run       # what would go
    python scripts/destroy.py                 # every pipeline of the target
    python scripts/destroy.py payloads/pulsar-realtime.json

Uploaded models and captured data stay in their bucket.
"""

import argparse
import os
import time
from pathlib import Path

from botocore.exceptions import ClientError

import sandbox
from common import TargetError, confirm, print_json, run, say
from orchestrator.contract import STACK_PREFIX
from orchestrator.handler import SNAPSHOTS
from target import Target, explained, load_payload, name, pipeline_of, resolve

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
    pages = listing.paginate(Bucket=target.bucket, Prefix=f"{SNAPSHOTS}/{stack}/")
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


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("payload", type=Path, nargs="?", help="default: every pipeline")
    parser.add_argument("--dry-run", action="store_true", help="list, delete nothing")
    parser.add_argument("--json", action="store_true", help="print what goes as JSON")
    arguments = parser.parse_args()
    if name() == "local" and "ORCHESTRATOR_URL" not in os.environ:
        if sandbox.status()["state"] == "never started":
            print("destroy: the sandbox was never started, there is no pipeline")
            return 0
        sandbox.up()  # it has to be there to take its pipelines down
    target = resolve()
    with explained():
        stacks = find(target, arguments.payload)
        going = {
            stack: {"resources": resources(target, stack), "objects": snapshots(target, stack)}
            for stack in stacks
        }
        if not arguments.json:
            for stack, parts in going.items():
                print(f"destroy: stack {stack}")
                for line in parts["resources"] + [
                    f"s3://{target.bucket}/{k}" for k in parts["objects"]
                ]:
                    print(f"  {line}")
        if not arguments.dry_run:
            if going and name() == "aws":
                confirm("Delete all of this?")
            for stack, parts in going.items():
                destroy(target, stack, parts["objects"])
            left = find(target, None) if not arguments.payload else []
            if left:
                raise TargetError(f"still there: {', '.join(left)}", "make destroy")
    if arguments.json:
        print_json(going)
    elif not going:
        print("destroy: there is no pipeline")
    elif not arguments.dry_run:
        say(f"destroy: {len(going)} gone")
    return 0


if __name__ == "__main__":
    run(main)
