"""How a pipeline is doing: POST /pipelinestatus.

    python scripts/status.py [payloads/pulsar-realtime.json | --id ARN]
    python scripts/status.py --wait       # follow it to its end

Exit codes: 0 in service, 1 failed (with the reason), 2 still in progress.
"""

import argparse
import sys
import time
from pathlib import Path

from clients.api import IN_PROGRESS, IN_SERVICE, status_of, verdict
from clients.payloads import REALTIME, load_payload, pipeline_of
from clients.target import Target, resolve
from common.errors import TargetError, run
from common.output import print_json

POLL_SECONDS = 0.5


def show(state: dict) -> None:
    print(f"pipeline {state['pipelineName']}")
    for stage in state["stageStates"]:
        latest = stage.get("latestExecution", {}).get("status", "not started")
        print(f"  {stage['stageName']:22} {latest}")
        for action in stage["actionStates"]:
            execution = action.get("latestExecution", {})
            if execution.get("summary"):
                print(f"    {execution['summary']}")
            if "errorDetails" in execution:
                print(f"    why: {execution['errorDetails'].get('message', '')}")
    if not state["stageStates"]:
        print("  not provisioned yet")
    endpoint = state.get("outputs", {}).get("SageMakerEndpointName")
    if endpoint and verdict(state) == IN_SERVICE:
        print(f"  endpoint               {endpoint}")


def follow(target: Target, pipeline: str, timeout: float) -> dict:
    """Ask until the pipeline is in service or has failed, showing where it is."""
    began = time.monotonic()
    live = sys.stderr.isatty()
    while True:
        state = status_of(target, pipeline)
        elapsed = time.monotonic() - began
        stages = state["stageStates"]
        current = next(
            (s for s in stages if s.get("latestExecution", {}).get("status") != "Succeeded"), None
        )
        if verdict(state) != IN_PROGRESS:
            if live:
                print("\r\033[K", end="", file=sys.stderr)
            return state
        if elapsed > timeout:
            raise TargetError(f"{pipeline} is not up after {timeout:.0f} s", "make status")
        if live:
            name = current["stageName"] if current else "not provisioned yet"
            print(f"\r\033[Kwait: {name}, {elapsed:.0f} s", end="", file=sys.stderr, flush=True)
        time.sleep(POLL_SECONDS)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("payload", type=Path, nargs="?", default=REALTIME)
    parser.add_argument("--id", help="a pipeline_id instead of a payload")
    parser.add_argument("--wait", action="store_true", help="wait until it is in service or failed")
    parser.add_argument("--timeout", type=float, default=900, metavar="SECONDS")
    parser.add_argument(
        "--json", action="store_true", help="print the orchestrator's answer as JSON"
    )
    arguments = parser.parse_args()
    target = resolve()
    pipeline = arguments.id
    if pipeline is None:
        payload = load_payload(arguments.payload, target.bucket)
        pipeline = pipeline_of(payload, arguments.payload)
    try:
        if arguments.wait:
            state = follow(target, pipeline, arguments.timeout)
        else:
            state = status_of(target, pipeline)
    except TargetError as error:
        if "does not exist" in str(error):
            raise TargetError(f"there is no pipeline {pipeline}", "make deploy") from None
        raise
    if arguments.json:
        print_json(state)
    else:
        show(state)
    return verdict(state)


if __name__ == "__main__":
    run(main)
