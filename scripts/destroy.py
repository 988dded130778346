"""Delete pipelines: their stacks, and the copies of models that were made for them.

    python scripts/destroy.py --dry-run       # what would go
    python scripts/destroy.py                 # every pipeline of the target
    python scripts/destroy.py payloads/pulsar-realtime.json

Uploaded models and captured data stay in their bucket. On AWS only the pipelines of the
orchestrator that STACK names go. Those of AWS's own orchestrator carry nobody's name: of several in
an account, the pipelines of all are listed, and deleted after a yes.
"""

import argparse
import os
from pathlib import Path

from clients import sandbox
from clients.refusals import explained
from clients.stacks import destroy, find, resources, snapshots
from clients.target import name, resolve
from common.errors import TargetError, run
from common.output import confirm, print_json, say


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("payload", type=Path, nargs="?", help="default: every pipeline")
    parser.add_argument("--dry-run", action="store_true", help="list, delete nothing")
    parser.add_argument("--json", action="store_true", help="print what goes as JSON")
    arguments = parser.parse_args()
    if name() == "local" and not os.environ.get("ORCHESTRATOR_URL"):
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
            if going and (name() == "aws" or target.guest_of):
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
