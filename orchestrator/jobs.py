"""Jobs of SageMaker in a stack: the custom resources that CloudFormation asks this handler for.

A transform or processing job has no CloudFormation type of its own. A plan holds it as

    {"Type": "Custom::TransformJob",
     "Properties": {"ServiceToken": <the handler's ARN>, "Name": <how its name begins>,
                    "Request": <CreateTransformJob's members, but for the job's name, which
                               ${JobName} stands for in any of them>,
                    "Started": {"Name": <how names begin>, "Environment": <variables>}}}

(`Started`, of a processing job, may be left out: other such jobs, which a schedule of the stack starts, and
which are stopped with the stack)

and CloudFormation then calls the handler with `RequestType: Create`, `Update` or `Delete`
(CloudFormation user guide, "Custom resource request and response objects"). The job is started or
stopped and its name returned at once: nobody waits for a job here. How it goes on is a stage of
`/pipelinestatus`, from `stage_of`.
"""

import hashlib
import json
import logging
import urllib.request

from botocore import xform_name
from botocore.exceptions import ClientError
from botocore.model import Shape

from orchestrator import cloudformation
from orchestrator.environment import client

log = logging.getLogger(__name__)

# SageMaker's jobs, all alike: Create…, Describe… and Stop…, a name and a status called after them.
KINDS = ("TransformJob", "ProcessingJob")
PREFIX = "Custom::"
ANSWER_SECONDS = 30
STATES = {"Completed": "Succeeded", "Failed": "Failed", "Stopped": "Stopped"}
NAME_LENGTH = 63


class BadResource(Exception):
    """A custom resource of a type that is not ours, or without what it must have."""


def answer(event: dict) -> dict:
    """Carry out one request of CloudFormation's, and tell it the outcome where it listens."""
    result = {key: event[key] for key in ("StackId", "RequestId", "LogicalResourceId")}
    # What it is to be called until it has a name of its own; Delete may come without one.
    result["PhysicalResourceId"] = event.get("PhysicalResourceId", f"none-{event['RequestId']}")
    try:
        kind = _kind(event["ResourceType"])
        if event["RequestType"] == "Delete":
            _stop(kind, result["PhysicalResourceId"])
            if "Started" in event["ResourceProperties"] and _goes(event["StackId"]):
                _stop_started(**event["ResourceProperties"]["Started"])
        else:
            # After an Update with a new name, CloudFormation deletes what had the old one.
            result["PhysicalResourceId"] = _start(kind, event)
        result["Status"] = "SUCCESS"
    except Exception as error:
        log.exception("%s of %s", event["RequestType"], event["LogicalResourceId"])
        result |= {"Status": "FAILED", "Reason": f"{error}"[:2000]}
    _tell(event["ResponseURL"], result)
    return result


def _kind(resource_type: str) -> str:
    kind = resource_type.removeprefix(PREFIX)
    if kind not in KINDS:
        raise BadResource(f"The orchestrator has no custom resource {resource_type}.")
    return kind


def _start(kind: str, event: dict) -> str:
    """Start a job; its name. The same request twice, as CloudFormation may send it, is one job."""
    sagemaker, operation = client("sagemaker"), f"Create{kind}"
    shape = sagemaker.meta.service_model.operation_model(operation).input_shape
    for key in ("Name", "Request"):
        if key not in event["ResourceProperties"]:
            raise BadResource(f"{event['ResourceType']} must have a {key}.")
    name = _name(event)
    request = typed(_filled(event["ResourceProperties"]["Request"], name), shape)
    request[f"{kind}Name"] = name
    try:
        getattr(sagemaker, xform_name(operation))(**request)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceInUse":
            raise
    return name


def _filled(value: object, name: str) -> object:
    if isinstance(value, dict):
        return {key: _filled(item, name) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, name) for item in value]
    return value.replace("${JobName}", name) if isinstance(value, str) else value


def _name(event: dict) -> str:
    begins = event["ResourceProperties"]["Name"]
    unique = hashlib.sha256(event["RequestId"].encode()).hexdigest()[:12]
    return f"{begins[: NAME_LENGTH - len(unique) - 1].rstrip('-')}-{unique}"


def _stop(kind: str, name: str) -> None:
    """Stop a job; one that has ended, or never was, is no error."""
    try:
        getattr(client("sagemaker"), xform_name(f"Stop{kind}"))(**{f"{kind}Name": name})
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("ResourceNotFound", "ValidationException"):
            raise


def _goes(stack: str) -> bool:
    """Whether a stack is being deleted: of an update, too, CloudFormation deletes what it has replaced."""
    found = cloudformation.find(stack)
    return found is None or found["StackStatus"].startswith("DELETE_")


def _stop_started(Name: str, Environment: dict[str, str]) -> None:
    """Stop the processing jobs that have such names, and are told all of this."""
    sagemaker = client("sagemaker")
    pages = sagemaker.get_paginator("list_processing_jobs").paginate(
        StatusEquals="InProgress", NameContains=Name
    )
    for page in pages:
        for job in page["ProcessingJobSummaries"]:
            name = job["ProcessingJobName"]
            told = sagemaker.describe_processing_job(ProcessingJobName=name).get("Environment", {})
            if name.startswith(Name) and Environment.items() <= told.items():
                _stop("ProcessingJob", name)


def typed(value: object, shape: Shape) -> object:
    """`value` with the numbers and booleans that its shape wants: CloudFormation hands every
    property of a custom resource over as a string."""
    if shape.type_name == "structure" and isinstance(value, dict):
        members = shape.members
        return {key: typed(v, members[key]) if key in members else v for key, v in value.items()}
    if shape.type_name == "list" and isinstance(value, list):
        return [typed(item, shape.member) for item in value]
    if shape.type_name == "map" and isinstance(value, dict):
        return {key: typed(item, shape.value) for key, item in value.items()}
    if shape.type_name in ("integer", "long") and isinstance(value, str):
        return int(value)
    if shape.type_name in ("float", "double") and isinstance(value, str):
        return float(value)
    if shape.type_name == "boolean" and isinstance(value, str):
        return {"true": True, "false": False}[value]
    return value


def _tell(url: str, result: dict) -> None:
    """PUT the outcome to the address that CloudFormation gave, which takes no Content-Type."""
    request = urllib.request.Request(
        url, data=json.dumps(result).encode(), method="PUT", headers={"Content-Type": ""}
    )
    urllib.request.urlopen(request, timeout=ANSWER_SECONDS).close()


# -- for /pipelinestatus --------------------------------------------------------------


def states(resources: list[dict]) -> list[tuple[str, str, str, str | None]]:
    """Of every job in a stack's resources: its kind, state, summary and error.

    `resources` are ListStackResources' summaries; a job that has no name yet is left out.
    """
    found = []
    for resource in resources:
        kind = resource["ResourceType"].removeprefix(PREFIX)
        if kind not in KINDS or not resource.get("PhysicalResourceId"):
            continue
        found.append((kind, *_state(kind, resource["PhysicalResourceId"])))
    return found


def any_failed(stack: dict) -> bool:
    """Whether a job of a stack has failed, or is not there."""
    listed = client("cloudformation").list_stack_resources(StackName=stack["StackId"])
    return any(state == "Failed" for _, state, *_ in states(listed["StackResourceSummaries"]))


def _state(kind: str, name: str) -> tuple[str, str, str | None]:
    try:
        describe = getattr(client("sagemaker"), xform_name(f"Describe{kind}"))
        job = describe(**{f"{kind}Name": name})
    except ClientError as error:
        return "Failed", f"{kind} {name} is not there.", error.response["Error"]["Message"]
    status = job[f"{kind}Status"]
    state = STATES.get(status, "InProgress")
    reason = job.get("FailureReason", "No reason was given.") if state == "Failed" else None
    return state, f"{kind} {name}: {status}.", reason
