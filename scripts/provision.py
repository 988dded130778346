"""Ask the orchestrator for a pipeline: POST /provisionpipeline with a payload.

    python scripts/provision.py payloads/pulsar-realtime.json
    python scripts/provision.py --dry-run payloads/pulsar-realtime.json   # request and plan
    python scripts/provision.py --curl payloads/pulsar-realtime.json      # the same for curl

An unchanged payload and model change nothing; a new model under the same key is deployed
without a pause. `scripts/status.py --wait` follows it.
"""

import argparse
import json
from pathlib import Path

from clients import costs
from clients.api import ask, curl
from clients.payloads import REALTIME, load_payload
from clients.target import Target, name, resolve
from common.errors import TargetError, UserError, run
from common.output import confirm, print_json, say
from orchestrator import artifacts, pipelines
from orchestrator.contract import PROVISION_PATH, BadRequest
from orchestrator.environment import Site


def preview(payload: dict, target: Target) -> dict:
    """What the orchestrator would hand to CloudFormation."""
    request = pipelines.validate(payload)
    kind, bucket = pipelines.TYPES[request.pipeline_type], target.bucket
    roles = "<SageMaker's role>", "<the monitors' role>", "<the scheduler's role>"
    site = Site(target.region, bucket, *roles, "<the handler>", target.url)
    copies = {
        key: artifacts.address(request.stack_name, "<version>", request.values[key])
        for key in kind.artifacts
    }
    for key in kind.shipped:
        copies[key] = artifacts.address(request.stack_name, "<version>", key)
    return kind.plan(request, site, {key: f"s3://{bucket}/{copy}" for key, copy in copies.items()})


def check_original(target: Target, payload: dict) -> None:
    """Say so before the original starts a container that can never come up."""
    builtin = str(payload.get("pipeline_type")).endswith("_builtin")
    if target.is_original and builtin and payload.get("model_framework") == "sklearn":
        raise TargetError(
            "this is AWS's own orchestrator: it starts the scikit-learn container without "
            "SAGEMAKER_PROGRAM, and the endpoint would never come up",
            "byom_realtime_custom with an image that sets it (docs/aws.md), or make launch TARGET=aws",
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("payload", type=Path, nargs="?", default=REALTIME)
    parser.add_argument(
        "--dry-run", action="store_true", help="print request and plan, send nothing"
    )
    parser.add_argument("--curl", action="store_true", help="print the curl command, send nothing")
    parser.add_argument(
        "--json", action="store_true", help="print the orchestrator's answer as JSON"
    )
    arguments = parser.parse_args()
    target = resolve()
    payload = load_payload(arguments.payload, target.bucket)
    if arguments.curl:
        print(curl(target, PROVISION_PATH, payload))
        return 0
    if arguments.dry_run:
        try:
            template = preview(payload, target)
        except BadRequest as error:
            raise UserError(f"{arguments.payload}: {error}") from None
        url = target.url + PROVISION_PATH.lstrip("/")
        if arguments.json:
            print_json({"method": "POST", "url": url, "body": payload, "plan": template})
        else:
            print(
                f"POST {url}\n{json.dumps(payload, indent=2)}\n\nplan:\n{json.dumps(template, indent=2)}"
            )
        return 0
    if name() == "aws":
        check_original(target, payload)
        say(costs.table(costs.estimate(payload)))
        confirm(f"Provision {payload.get('model_name')} in {target.region}?")
    answer = ask(target, PROVISION_PATH, payload)
    if arguments.json:
        print_json(answer)
    else:
        print(f"provision: {answer['message']}\n  pipeline_id: {answer['pipeline_id']}")
    return 0


if __name__ == "__main__":
    run(main)
