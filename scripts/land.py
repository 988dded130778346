"""Take the orchestrator off AWS: `make land TARGET=aws`.

    TARGET=aws python scripts/land.py

Deletes every pipeline, empties and deletes the buckets, deletes the stack, and looks whether
anything that is billed is left. Uploaded models and captured data go too; it asks first.
"""

import argparse
import time

from botocore.exceptions import ClientError

import destroy
import target
from common import TargetError, confirm, print_json, run, say

DELETE_SECONDS = 900


def empty(session, bucket: str) -> int:
    """Delete every version of every object; how many there were."""
    count = 0
    pages = session.client("s3").get_paginator("list_object_versions").paginate(Bucket=bucket)
    for page in pages:
        items = page.get("Versions", []) + page.get("DeleteMarkers", [])
        keys = [{"Key": item["Key"], "VersionId": item["VersionId"]} for item in items]
        if keys:
            session.client("s3").delete_objects(
                Bucket=bucket, Delete={"Objects": keys, "Quiet": True}
            )
            count += len(keys)
    return count


def buckets_of(session, stack: str) -> list[str]:
    account = session.client("sts").get_caller_identity()["Account"]
    wanted = {f"{stack}-{kind}-{account}-{session.region_name}" for kind in ("assets", "code")}
    return [
        b["Name"] for b in session.client("s3").list_buckets()["Buckets"] if b["Name"] in wanted
    ]


def delete_stack(session, stack: str) -> None:
    cloudformation = session.client("cloudformation")
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
        if state["StackStatus"] == "DELETE_COMPLETE":
            return
        if state["StackStatus"] == "DELETE_FAILED" or time.monotonic() > deadline:
            reason = state.get("StackStatusReason", "")
            raise TargetError(
                f"{stack} is {state['StackStatus']}: {reason}", "make land TARGET=aws"
            )
        time.sleep(2)


def billed(session, stack: str) -> list[str]:
    """What is still there of us and would be billed: endpoints of pipelines, buckets."""
    cloudformation = session.client("cloudformation")
    pages = cloudformation.get_paginator("describe_stacks").paginate()
    names = [item["StackName"] for page in pages for item in page["Stacks"]]
    left = [
        f"stack {name}" for name in names if name == stack or name.startswith("mlops-pipeline-")
    ]
    return left + [f"bucket {bucket}" for bucket in buckets_of(session, stack)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print what went as JSON")
    arguments = parser.parse_args()
    if target.name() != "aws":
        raise TargetError("landing is for AWS; on a laptop there is make destroy",
                          "make land TARGET=aws, or make destroy")  # fmt: skip
    session, stack = target.aws_session(), target.stack_name()
    with target.explained():
        buckets, going = buckets_of(session, stack), billed(session, stack)
        for line in going:
            say(f"land: {line}")
        if not going:
            say(f"land: nothing of {stack} is in {session.region_name}")
            return 0
        confirm("Delete all of this, uploaded models and captured data included?")
        # The stack may have failed and have no outputs: what is needed to delete is a session.
        place = target.Target("", "", session)
        for name in destroy.find(place, None):
            destroy.destroy(place, name, [])
        for bucket in buckets:
            empty(session, bucket)
        delete_stack(session, stack)
        for bucket in buckets_of(session, stack):
            empty(session, bucket)
            session.client("s3").delete_bucket(Bucket=bucket)
        left = billed(session, stack)
    if left:
        raise TargetError(f"still there: {', '.join(left)}", "make land TARGET=aws")
    if arguments.json:
        print_json(going)
    else:
        print("land: nothing is left that is billed")
    return 0


if __name__ == "__main__":
    run(main)
