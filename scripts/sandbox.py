"""Start, stop and look at the sandbox: AWS's part of the work, on this machine, for nothing.

    python scripts/sandbox.py up | down | show | env

`env` prints the variables that aws, boto3 and curl need: eval "$(make -s env)".
The state folder (.sandbox, or SANDBOX_DIR) holds everything the sandbox knows; SANDBOX_PORT
asks for a port. One background process, on loopback only, its log in sandbox.log.
"""

import argparse
import shlex

from clients.sandbox import down, environment, in_the_way, status, up
from common.errors import run
from common.output import print_json


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=("up", "down", "show", "env"))
    parser.add_argument("--json", action="store_true", help="print the status as JSON")
    arguments = parser.parse_args()
    if arguments.verb == "env":
        variables = environment()
        if arguments.json:
            print_json(variables)
        else:
            print("\n".join(f"export {k}={shlex.quote(v)}" for k, v in variables.items()))
            if others := in_the_way(variables):
                print("unset", *others)
        return 0
    now = {"up": up, "down": down, "show": status}[arguments.verb]()
    if arguments.json:
        print_json(now)
    elif arguments.verb == "show":
        print("sandbox:", now["state"], now.get("url", "") if now["state"] == "running" else "")
    return 0


if __name__ == "__main__":
    run(main)
