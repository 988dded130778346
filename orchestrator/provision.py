"""POST /provisionpipeline: from a valid body to a stack that is being made or brought up to date."""

import time

from botocore.exceptions import ClientError

from orchestrator import artifacts, cloudformation, contract, jobs, pipelines
from orchestrator.contract import BadRequest, Request
from orchestrator.environment import Site, client, site
from orchestrator.pipelines.family import PipelineType

ASKED = "AskedAgain"  # when, of something that has not changed
ATTEMPTS = 3  # when others upload or provision the same at the same time


def provision(body: dict) -> dict:
    """Create the pipeline's stack, or bring it up to date; an unchanged request does nothing."""
    request = pipelines.validate(body)
    kind, here = pipelines.TYPES[request.pipeline_type], site()
    for key in kind.locations:
        _require_bucket(key, request.values[key])
    for key in kind.sources:
        _require_objects(key, request.values[key])
    kind.must_be_there(request.values)
    for _ in range(ATTEMPTS):
        try:
            return _carry_out(request, kind, here)
        except (artifacts.Changed, cloudformation.Overtaken):
            continue
    raise BadRequest(
        f"Bad request. {request.stack_name} or its artifacts are being changed by somebody else; "
        "send the request again"
    )


def _carry_out(request: Request, kind: PipelineType, here: Site) -> dict:
    found = artifacts.look_up(request, kind.artifacts, here.assets_bucket)
    addresses = {key: artifact.url for key, artifact in found.items()} | {
        name: artifacts.ship(request.stack_name, name, content(), here.assets_bucket)
        for name, content in kind.shipped.items()
    }
    template = kind.plan(request, here, addresses)
    stack = cloudformation.find(request.stack_name)
    if stack:
        cloudformation.must_be_ours(stack)
    if stack and _must_go_first(stack, kind):
        cloudformation.delete(stack)
        stack = None
    if stack and _as_planned(cloudformation.template_of(stack)) == template:
        rolled_back = stack["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
        if kind.repeats or jobs.any_failed(stack):
            _ask_again(template)
        elif not rolled_back:
            return _provisioned(contract.UPDATING.format(request.stack_name), stack)
        if rolled_back:
            # What runs since a roll-back is now what is asked. Metadata are all that changes:
            # enough for CloudFormation to call the stack up to date, and nothing is touched.
            next(iter(template["Resources"].values()))["Metadata"] = {ASKED: _now()}
    artifacts.keep(found)
    if stack is None:
        return _provisioned(contract.CREATED, cloudformation.create(request.stack_name, template))
    cloudformation.update(stack, template)
    return _provisioned(contract.UPDATING.format(request.stack_name), stack)


def _must_go_first(stack: dict, kind: PipelineType) -> bool:
    """A stack that failed at birth, is on its way out, or holds what cannot be updated."""
    status = stack["StackStatus"]
    if status in cloudformation.DEAD or status == "DELETE_IN_PROGRESS":
        return True
    if status.endswith("_IN_PROGRESS"):
        return False
    return kind.beyond_repair(cloudformation.outputs_of(stack))


def _provisioned(message: str, stack: dict) -> dict:
    return {"message": message, "pipeline_id": stack["StackId"]}


def _require_bucket(key: str, location: str) -> None:
    bucket = location.partition("/")[0]
    try:
        client("s3").head_bucket(Bucket=bucket)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in ("404", "NoSuchBucket"):
            raise BadRequest(f"Bad request. {key}: there is no bucket called {bucket}") from None
        if code in ("403", "AccessDenied"):
            raise BadRequest(
                f"Bad request. {key}: the orchestrator may not use the bucket {bucket}; "
                "take the assets bucket"
            ) from None
        raise


def _require_objects(key: str, location: str) -> None:
    bucket, _, prefix = location.partition("/")
    try:
        found = client("s3").list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
    except ClientError as error:
        if error.response["Error"]["Code"] != "AccessDenied":
            raise
        return  # what the job may read is not for the orchestrator to see
    if not found["KeyCount"]:
        raise BadRequest(
            f"Bad request. {key}: there is nothing at s3://{location}; upload it first"
        )


def _ask_again(template: dict) -> None:
    """Have CloudFormation ask for a stack's jobs once more: it does so when a property has changed."""
    for resource in template["Resources"].values():
        if resource["Type"].startswith(jobs.PREFIX):
            resource["Properties"][ASKED] = _now()


def _now() -> str:
    return f"{time.time():.3f}"


def _as_planned(template: dict) -> dict:
    """A stack's template without what was added to the plan."""
    resources = {}
    for name, resource in template["Resources"].items():
        planned = {key: value for key, value in resource.items() if key != "Metadata"}
        if ASKED in planned.get("Properties", {}):
            kept = {key: value for key, value in planned["Properties"].items() if key != ASKED}
            planned["Properties"] = kept
        resources[name] = planned
    return template | {"Resources": resources}
