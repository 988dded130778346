"""Take the orchestrator off AWS: `make land TARGET=aws`.

    TARGET=aws python scripts/land.py

Deletes every pipeline of this orchestrator, empties and deletes the buckets, deletes the stack, and looks whether
anything that is billed is left. Uploaded models and captured data go too; it asks first.
"""

import argparse

from clients import stacks
from clients.refusals import explained
from clients.target import Target, on_aws
from common.errors import TargetError, run
from common.output import confirm, print_json, say


def empty(place: Target, bucket: str) -> None:
    """Delete every version of every object."""
    s3 = place.client("s3")
    pages = s3.get_paginator("list_object_versions").paginate(Bucket=bucket)
    for page in pages:
        items = page.get("Versions", []) + page.get("DeleteMarkers", [])
        keys = [{"Key": item["Key"], "VersionId": item["VersionId"]} for item in items]
        if keys:
            s3.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})


def buckets_of(place: Target) -> list[str]:
    wanted = {
        f"{place.orchestrator}-{kind}-{place.account}-{place.region}" for kind in ("assets", "code")
    }
    return [b["Name"] for b in place.client("s3").list_buckets()["Buckets"] if b["Name"] in wanted]


def billed(place: Target) -> list[str]:
    """What is still there of us and would be billed: pipelines, the orchestrator, buckets."""
    stack = place.orchestrator
    pages = place.client("cloudformation").get_paginator("describe_stacks").paginate()
    ours = [s["StackName"] for page in pages for s in page["Stacks"] if s["StackName"] == stack]
    left = [f"stack {name}" for name in stacks.find(place, None) + ours]
    return left + [f"bucket {bucket}" for bucket in buckets_of(place)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print what went as JSON")
    arguments = parser.parse_args()
    session, stack = on_aws(
        "landing is for AWS; on a laptop there is make destroy",
        "make land TARGET=aws, or make destroy",
    )
    with explained():
        account = session.client("sts").get_caller_identity()["Account"]
        # The stack may have failed and have no outputs: what is needed to delete is a session.
        place = Target("", "", session, account=account, orchestrator=stack)
        buckets, going = buckets_of(place), billed(place)
        for line in going:
            say(f"land: {line}")
        if not going:
            say(f"land: nothing of {stack} is in {session.region_name}")
            return 0
        confirm("Delete all of this, uploaded models and captured data included?")
        for name in stacks.find(place, None):
            stacks.destroy(place, name, [])
        for bucket in buckets:
            empty(place, bucket)
        stacks.delete_stack(place, stack)
        for bucket in buckets_of(place):
            empty(place, bucket)
            place.client("s3").delete_bucket(Bucket=bucket)
        left = billed(place)
    if left:
        raise TargetError(f"still there: {', '.join(left)}", "make land TARGET=aws")
    if arguments.json:
        print_json(going)
    else:
        print("land: nothing is left that is billed")
    return 0


if __name__ == "__main__":
    run(main)
