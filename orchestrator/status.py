"""POST /pipelinestatus: a pipeline's state in the shape of CodePipeline's GetPipelineState.

Two stages, as in the original: `Source` (the artifacts were taken over) and
`DeployCloudFormation` (the stack); a stack with a job in it has one more, `RunJob`. A failed stage
carries `errorDetails`.
"""

from botocore.exceptions import ClientError

from orchestrator import artifacts, contract, jobs, pipelines
from orchestrator.cloudformation import (
    DEAD,
    failure_reasons,
    must_be_ours,
    outputs_of,
    template_of,
)
from orchestrator.contract import BadRequest
from orchestrator.environment import client
from orchestrator.pipelines.family import PipelineType


def status(body: dict) -> dict:
    cloudformation = client("cloudformation")
    stack_id = contract.text(body, "pipeline_id")
    try:
        stack = cloudformation.describe_stacks(StackName=stack_id)["Stacks"][0]
    except ClientError:
        # Of an unknown id, the original's error.
        cloudformation.list_stack_resources(StackName=stack_id)
        raise
    kind = pipelines.of_stack(stack["StackName"])
    if kind is None:
        raise BadRequest(f"Bad request. The stack {stack['StackName']} is no pipeline")
    must_be_ours(stack)
    template = template_of(stack)
    updated = stack.get("LastUpdatedTime", stack["CreationTime"]).isoformat()
    execution = stack["StackId"].rpartition("/")[2]

    def stage(name: str, action: str, state: str, summary: str, error: str | None = None) -> dict:
        latest = {
            "actionExecutionId": f"{execution}-{action}",
            "status": state,
            "summary": summary,
            "lastStatusChange": updated,
        }
        if error:
            latest["errorDetails"] = {"code": "JobFailed", "message": error}
        return {
            "stageName": name,
            "inboundTransitionState": {"enabled": True},
            "actionStates": [{"actionName": action, "latestExecution": latest}],
            "latestExecution": {"pipelineExecutionId": execution, "status": state},
        }

    version = artifacts.version_in(template, stack["StackName"])
    deployment = _deployment(stack, template, kind)
    stages = [
        stage("Source", "S3Source", "Succeeded", f"Amazon S3 version id: {version}"),
        stage("DeployCloudFormation", "deploy_stack", *deployment),
    ]
    if deployment[0] == "Succeeded":
        # Listed after the stack was seen whole: before, its job may have had no name yet.
        listed = cloudformation.list_stack_resources(StackName=stack_id)["StackResourceSummaries"]
        stages += [stage("RunJob", f"run_{job}", *state) for job, *state in jobs.states(listed)]
    return {
        "pipelineName": stack["StackName"],
        "pipelineVersion": 1,
        "stageStates": stages,
        "created": stack["CreationTime"].isoformat(),
        "updated": updated,
        "outputs": outputs_of(stack),
        "ResponseMetadata": {"HTTPStatusCode": 200},
    }


def _deployment(stack: dict, template: dict, kind: PipelineType) -> tuple[str, str, str | None]:
    """State, summary and error of the stage that carries out the plan."""
    state, name = stack["StackStatus"], stack["StackName"]
    if "ROLLBACK" in state and state.startswith("UPDATE"):
        reason = f"{failure_reasons(stack)} The previous version keeps answering."
        if state.endswith("COMPLETE"):
            return "Failed", f"The update of {name} was rolled back.", reason
        if state.endswith("FAILED"):
            return "Failed", f"The update of {name} could not be rolled back.", reason
        return "InProgress", f"The update of {name} is being rolled back.", reason
    if state in DEAD or state.endswith("_FAILED"):
        return "Failed", f"Stack {name} failed.", failure_reasons(stack)
    if state == "DELETE_COMPLETE":
        return "Failed", f"Stack {name} was deleted.", "The pipeline was deleted."
    if state.endswith("_IN_PROGRESS"):
        return "InProgress", f"Stack {name}: {state}.", None
    error = kind.difference(outputs_of(stack), template)
    if error:
        return "Failed", f"Stack {name} is {state}, but what runs is not what was asked.", error
    done = "updated" if state.startswith("UPDATE") else "created"
    return "Succeeded", f"Stack {name} was {done}.", None
