"""How the pipelines are doing: POST /pipelinestatus.

    python scripts/status.py                                   # all of them, a line each
    python scripts/status.py payloads/pulsar-realtime.json     # one in detail: its payload,
    python scripts/status.py pulsar                            # its name, or --id ARN
    python scripts/status.py --wait [payloads/pulsar-realtime.json]     # follow it to its end

Exit codes: 0 in service, 1 failed (with the reason), 2 still in progress; of all pipelines, that of
the worst, failed before in progress.
"""

import argparse
import re
from datetime import UTC, datetime
from pathlib import Path

from clients.api import (
    FAILED,
    IN_PROGRESS,
    IN_SERVICE,
    executions,
    reasons,
    status_of,
    verdict,
)
from clients.checks import Checks, checks_of
from clients.payloads import REALTIME, load_payload, pipeline_of
from clients.refusals import explained
from clients.stacks import find
from clients.target import Target, resolve
from clients.waiting import wait
from common.errors import TargetError, run
from common.output import print_json
from orchestrator import pipelines

# What of a pipeline's outputs its user asks for.
SHOWN = {
    "SageMakerEndpointName": "endpoint",
    "BatchTransformOutputLocation": "output",
    "MonitoringScheduleOutput": "results",
}
HEALTH = {IN_SERVICE: "in service", FAILED: "failed", IN_PROGRESS: "in progress"}
DONE = "done"
ROW = "{pipeline:24}{type:34}{health:13}{version:14}{changed}"
AGES = ((86400, "days"), (3600, "h"), (60, "min"), (1, "s"))


def show(state: dict, checks: Checks | None = None) -> None:
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
    if verdict(state) == IN_SERVICE:
        for key, what in SHOWN.items():
            if key in state.get("outputs", {}):
                print(f"  {what:22} {state['outputs'][key]}")
    if checks:
        print(f"  {checks}")


def all_of(target: Target) -> list[dict]:
    """The state of every pipeline; one that is deleted meanwhile is left out."""
    states = []
    for stack in pipelines_of(target):
        try:
            states.append(status_of(target, stack))
        except TargetError as error:
            if "does not exist" not in str(error):
                raise
    return states


def pipelines_of(target: Target) -> dict[str, tuple[str, str]]:
    """Type and model of every pipeline, by its stack. The original has stacks beside them."""
    with explained():
        found = {stack: pipelines.name_in(stack) for stack in find(target, None)}
    return {stack: name for stack, name in found.items() if name}


def row_of(state: dict) -> dict[str, str]:
    """What the list says of a pipeline."""
    kind, name = pipelines.name_in(state["pipelineName"])
    versions = [re.findall(r"version id: (\w+)", e.get("summary", "")) for e in executions(state)]
    return {
        "pipeline": name,
        "type": kind,
        "health": health(state),
        "version": next((found[0][:12] for found in versions if found), "-"),
        "changed": age(state["updated"]) if "updated" in state else "-",
        "why": reasons(state),
    }


def health(state: dict) -> str:
    """In a word; a job that has succeeded is done."""
    is_job = "BatchTransformJobName" in state.get("outputs", {})
    return DONE if is_job and verdict(state) == IN_SERVICE else HEALTH[verdict(state)]


def age(then: str) -> str:
    """How long ago a time in ISO 8601 was, in the largest unit that fits."""
    seconds = max((datetime.now(UTC) - datetime.fromisoformat(then)).total_seconds(), 0)
    size, unit = next(((size, unit) for size, unit in AGES if seconds >= size), AGES[-1])
    return f"{seconds / size:.0f} {unit} ago"


def show_all(target: Target, states: list[dict]) -> None:
    print(ROW.format(**{key: key for key in ("pipeline", "type", "health", "version", "changed")}))
    for state in states:
        row = row_of(state)
        print(ROW.format(**row))
        if row["why"]:
            print(f"  why: {row['why']}")
        with explained():
            checks = checks_of(target, state.get("outputs", {}))
        if checks:
            print(f"  {checks}")


def worst(verdicts: list[int]) -> int:
    return next(v for v in (FAILED, IN_PROGRESS, IN_SERVICE) if v in verdicts)


def named(target: Target, name: str) -> str:
    """The pipeline that a payload's path, or a name, stands for; TargetError when none or several do."""
    path = Path(name)
    if path.is_file() or path.suffix or len(path.parts) > 1:
        return pipeline_of(load_payload(path, target.bucket), path)
    there = pipelines_of(target).items()
    found = [stack for stack, (_, model) in there if name.lower() in (stack, model)]
    if len(found) == 1:
        return found[0]
    if found:
        raise TargetError(f"{len(found)} pipelines are called {name}", f"one of: {' '.join(found)}")
    raise TargetError(f"there is no pipeline {name}", "make status")


def follow(target: Target, pipeline: str, timeout: float) -> dict:
    """Ask until the pipeline is in service or has failed, showing where it is."""

    def look() -> tuple[dict | None, str]:
        state = status_of(target, pipeline)
        if verdict(state) != IN_PROGRESS:
            return state, ""
        stages = [stage["stageName"] for stage in state["stageStates"] if not is_done(stage)]
        return None, f"wait: {stages[0] if stages else 'not provisioned yet'}"

    return wait(look, timeout, f"{pipeline} is not up")


def is_done(stage: dict) -> bool:
    return stage.get("latestExecution", {}).get("status") == "Succeeded"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pipeline", nargs="?", help="a payload or a name (default: all)")
    parser.add_argument("--id", help="a pipeline_id instead")
    parser.add_argument("--wait", action="store_true", help="wait until it is in service or failed")
    parser.add_argument("--timeout", type=float, default=900, metavar="SECONDS")
    parser.add_argument(
        "--json", action="store_true", help="print the orchestrator's answer as JSON"
    )
    arguments = parser.parse_args()
    target = resolve()
    pipeline = arguments.id
    if pipeline is None and (arguments.pipeline or arguments.wait):
        pipeline = named(target, arguments.pipeline or str(REALTIME))
    if pipeline is None:
        states = all_of(target)
        if arguments.json:
            print_json(states)
        elif states:
            show_all(target, states)
        if not states:
            raise TargetError("there is no pipeline", "make deploy")
        return worst([verdict(state) for state in states])
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
        with explained():
            checks = checks_of(target, state.get("outputs", {}))
        show(state, checks)
    return verdict(state)


if __name__ == "__main__":
    run(main)
