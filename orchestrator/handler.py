"""The orchestrator's API: an AWS Lambda handler behind API Gateway, and the sandbox's too.

`handler(event, context)` takes an API Gateway proxy event and answers in the contract's
shape. It validates the body, plans the resources and hands the plan to CloudFormation;
nothing here knows whether CloudFormation, S3 and SageMaker are AWS's or the sandbox's.
That is decided by the environment alone:

    ASSETS_BUCKET         where models are uploaded
    SAGEMAKER_ROLE_ARN    the role SageMaker takes to run a model
    CFN_ROLE_ARN          the role CloudFormation takes to carry out a plan (optional)
    AWS_REGION            the region
    API_URL               where this API is, ending in a slash
    NOTIFICATIONS_TOPIC   the SNS topic that is told of a configuration that failed (optional)
    AWS_ENDPOINT_URL      the sandbox's address; unset on AWS
    ALLOW_DETAILED_ERROR_MESSAGE   "No" leaves `detailedMessage` out of error answers
"""

import json
import logging
import os
import re
import time
from collections.abc import Callable
from functools import cache
from urllib.parse import unquote_plus

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from orchestrator import contract
from orchestrator.contract import BadRequest, Request
from orchestrator.plan import Site, plan

log = logging.getLogger(__name__)

SNAPSHOTS = "mlops_provisioned_pipelines"  # the original's folder in the assets bucket
INFERENCE_PATH = re.compile(r"/pipelines/([A-Za-z0-9-]+)/inference")
# A stack in one of these states cannot be updated, only deleted and made again.
DEAD = {"CREATE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_FAILED"}
DELETE_SECONDS = 20  # API Gateway gives up after 29


@cache
def client(service: str):
    retries = {"mode": "standard", "max_attempts": 4}
    return boto3.client(service, config=Config(retries=retries, connect_timeout=5, read_timeout=20))


def handler(event: dict, context: object) -> dict:
    """Answer one request; every answer, errors included, has the contract's envelope.

    On AWS two more kinds of event come here: an object called mlops-config.json… in the assets
    bucket provisions what it holds, and CloudFormation says what became of a stack.
    """
    if "Records" in event:
        return {"answers": [_configuration(record) for record in event["Records"]]}
    if event.get("source") == "aws.cloudformation":
        return _tell_of_stack(event["detail"])
    return _answered(lambda: _route(event))


def _answered(work: Callable[[], str]) -> dict:
    try:
        return _answer(200, work())
    except BadRequest as error:
        return _error(400, contract.BAD_REQUEST, error)
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return _error(status, contract.CLIENT_ERROR, error)
    except Exception as error:
        log.exception("the request failed")
        return _error(500, contract.SERVER_ERROR, error)


def _route(event: dict) -> str:
    if event.get("httpMethod") != "POST":
        raise BadRequest(contract.WRONG_METHOD)
    path = event.get("path")
    if path == contract.PROVISION_PATH:
        return json.dumps(provision(contract.parse_body(event.get("body"))))
    if path == contract.STATUS_PATH:
        return json.dumps(status(contract.parse_body(event.get("body"))), indent=4)
    if match := INFERENCE_PATH.fullmatch(path or ""):
        return infer(match[1], contract.parse_body(event.get("body")))
    raise BadRequest(contract.WRONG_PATH)


def _answer(status_code: int, body: str) -> dict:
    return {
        "statusCode": status_code,
        "isBase64Encoded": False,
        "body": body,
        "headers": {"Content-Type": "plain/text"},  # sic: what the original sends
    }


def _error(status_code: int, message: str, error: Exception) -> dict:
    body = {"message": message}
    if os.environ.get("ALLOW_DETAILED_ERROR_MESSAGE", "Yes") == "Yes":
        body["detailedMessage"] = str(error)
    return _answer(status_code, json.dumps(body))


# -- POST /provisionpipeline ----------------------------------------------------------


def provision(body: dict) -> dict:
    """Create the pipeline's stack, or bring it up to date; an unchanged request does nothing."""
    request = contract.validate(body)
    _require_bucket("data_capture_location", request.values["data_capture_location"])
    snapshot = _snapshot_key(request)
    site = Site(
        os.environ["AWS_REGION"],
        os.environ["ASSETS_BUCKET"],
        os.environ["SAGEMAKER_ROLE_ARN"],
        os.environ["API_URL"],
    )
    template = plan(request, site, f"s3://{site.assets_bucket}/{snapshot}")
    stack = _find_stack(request.stack_name)
    if stack and _cannot_be_updated(stack):
        _delete_stack(stack)
        stack = None
    if stack and _without_metadata(_current_template(stack)) == template:
        if stack["StackStatus"] != "UPDATE_ROLLBACK_COMPLETE":
            return _provisioned(contract.UPDATING.format(request.stack_name), stack)
        # What runs since a roll-back is now what is asked. Metadata are all that changes:
        # enough for CloudFormation to call the stack up to date, and nothing is touched.
        template["Resources"]["Endpoint"]["Metadata"] = {"AskedAgain": f"{time.time():.3f}"}
    known = _copy_artifact(request, snapshot)
    try:
        if stack is None:
            return _provisioned(contract.CREATED, _create_stack(request, template))
        _update_stack(stack, template)
        return _provisioned(contract.UPDATING.format(request.stack_name), stack)
    except Exception:
        if not known:
            client("s3").delete_object(Bucket=site.assets_bucket, Key=snapshot)
        raise


def _provisioned(message: str, stack: dict) -> dict:
    return {"message": message, "pipeline_id": stack["StackId"]}


def _require_bucket(key: str, location: str) -> None:
    bucket = location.partition("/")[0]
    try:
        client("s3").head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchBucket"):
            raise
        raise BadRequest(f"Bad request. {key}: there is no bucket called {bucket}") from None


def _snapshot_key(request: Request) -> str:
    """Where the immutable copy of the uploaded model goes; the address tells versions apart.

    An endpoint must keep the model it was given: after a roll-back, a restart or a new
    instance, the object under the user's own key may have been overwritten.
    """
    bucket, key = os.environ["ASSETS_BUCKET"], request.values["model_artifact_location"]
    try:
        head = client("s3").head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchKey"):
            raise
        raise BadRequest(
            f"Bad request. model_artifact_location: s3://{bucket}/{key} does not exist; "
            "upload the model first"
        ) from None
    # The sandbox knows no ETag of a file that was put into its folder by hand.
    version = head["ETag"].strip('"') or f"{head['LastModified'].timestamp():.0f}"
    return f"{SNAPSHOTS}/{request.stack_name}/{version}/{key.rpartition('/')[2]}"


def _copy_artifact(request: Request, snapshot: str) -> bool:
    """Make the immutable copy; True when it was there already."""
    bucket = os.environ["ASSETS_BUCKET"]
    try:
        client("s3").head_object(Bucket=bucket, Key=snapshot)
        return True
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchKey"):
            raise
    source = {"Bucket": bucket, "Key": request.values["model_artifact_location"]}
    client("s3").copy(source, bucket, snapshot)
    return False


# -- the stack of a pipeline ----------------------------------------------------------


def _find_stack(name: str) -> dict | None:
    try:
        return client("cloudformation").describe_stacks(StackName=name)["Stacks"][0]
    except ClientError as error:
        if "does not exist" in error.response["Error"]["Message"]:
            return None
        raise


def _current_template(stack: dict) -> dict:
    template = client("cloudformation").get_template(StackName=stack["StackId"])["TemplateBody"]
    return template if isinstance(template, dict) else json.loads(template)


def _without_metadata(template: dict) -> dict:
    resources = {
        name: {key: value for key, value in resource.items() if key != "Metadata"}
        for name, resource in template["Resources"].items()
    }
    return template | {"Resources": resources}


def _create_stack(request: Request, template: dict) -> dict:
    # DO_NOTHING leaves a failed endpoint to be looked at; the next request replaces it.
    return client("cloudformation").create_stack(
        StackName=request.stack_name,
        TemplateBody=json.dumps(template),
        Capabilities=["CAPABILITY_IAM"],
        OnFailure="DO_NOTHING",
        Tags=[{"Key": "stack_name", "Value": request.stack_name}],
        **_role(),
    )


def _update_stack(stack: dict, template: dict) -> None:
    client("cloudformation").update_stack(
        StackName=stack["StackName"],
        TemplateBody=json.dumps(template),
        Capabilities=["CAPABILITY_IAM"],
        **_role(),
    )


def _role() -> dict:
    role = os.environ.get("CFN_ROLE_ARN")
    return {"RoleARN": role} if role else {}


def _cannot_be_updated(stack: dict) -> bool:
    """A stack that failed at birth, or whose endpoint SageMaker has given up."""
    if stack["StackStatus"] in DEAD:
        return True
    if stack["StackStatus"].endswith("_IN_PROGRESS"):
        return False
    endpoint = _outputs(stack).get("SageMakerEndpointName")
    return bool(endpoint) and _endpoint(endpoint)["EndpointStatus"] == "Failed"


def _delete_stack(stack: dict) -> None:
    """Delete a dead stack, and wait: there is no endpoint to drain, so it takes seconds."""
    cloudformation = client("cloudformation")
    cloudformation.delete_stack(StackName=stack["StackId"], **_role())
    deadline = time.monotonic() + DELETE_SECONDS
    while time.monotonic() < deadline:
        state = cloudformation.describe_stacks(StackName=stack["StackId"])["Stacks"][0]
        if state["StackStatus"] == "DELETE_COMPLETE":
            return
        time.sleep(0.2)
    raise BadRequest(
        f"Bad request. {stack['StackName']} failed before and is still being deleted; "
        "send the request again in a minute"
    )


def _outputs(stack: dict) -> dict[str, str]:
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}


def _endpoint(name: str) -> dict:
    return client("sagemaker").describe_endpoint(EndpointName=name)


# -- POST /pipelinestatus -------------------------------------------------------------


def status(body: dict) -> dict:
    """The pipeline's state in the shape of CodePipeline's GetPipelineState.

    Two stages, as in the original: `Source` (the model was taken over) and
    `DeployCloudFormation` (the stack). A failed stage carries `errorDetails`.
    """
    cloudformation = client("cloudformation")
    stack_id = contract.pipeline_id_of(body)
    cloudformation.list_stack_resources(StackName=stack_id)  # an unknown id: the original's error
    stack = cloudformation.describe_stacks(StackName=stack_id)["Stacks"][0]
    template = _current_template(stack)
    state, summary, error = _deployment(stack, template)
    model_url = _model_url(template)
    created = stack["CreationTime"].isoformat()
    updated = stack.get("LastUpdatedTime", stack["CreationTime"]).isoformat()
    execution = stack["StackId"].rpartition("/")[2]
    version = model_url.split("/")[-2]
    return {
        "pipelineName": stack["StackName"],
        "pipelineVersion": 1,
        "stageStates": [
            _stage(
                "Source",
                "S3Source",
                execution,
                "Succeeded",
                updated,
                f"Amazon S3 version id: {version}",
            ),
            _stage(
                "DeployCloudFormation", "deploy_stack", execution, state, updated, summary, error
            ),
        ],
        "created": created,
        "updated": updated,
        "outputs": _outputs(stack),
        "ResponseMetadata": {"HTTPStatusCode": 200},
    }


def _stage(name, action, execution, state, changed, summary, error=None) -> dict:
    latest = {
        "actionExecutionId": f"{execution}-{action}",
        "status": state,
        "summary": summary,
        "lastStatusChange": changed,
    }
    if error:
        latest["errorDetails"] = {"code": "JobFailed", "message": error}
    return {
        "stageName": name,
        "inboundTransitionState": {"enabled": True},
        "actionStates": [{"actionName": action, "latestExecution": latest}],
        "latestExecution": {"pipelineExecutionId": execution, "status": state},
    }


def _deployment(stack: dict, template: dict) -> tuple[str, str, str | None]:
    """State, summary and error of the stage that carries out the plan."""
    status, name = stack["StackStatus"], stack["StackName"]
    if "ROLLBACK" in status and status.startswith("UPDATE"):
        reason = f"{_failure_reasons(stack)} The previous version keeps answering."
        if status.endswith("COMPLETE"):
            return "Failed", f"The update of {name} was rolled back.", reason
        if status.endswith("FAILED"):
            return "Failed", f"The update of {name} could not be rolled back.", reason
        return "InProgress", f"The update of {name} is being rolled back.", reason
    if status in DEAD or status.endswith("_FAILED"):
        return "Failed", f"Stack {name} failed.", _failure_reasons(stack)
    if status == "DELETE_COMPLETE":
        return "Failed", f"Stack {name} was deleted.", "The pipeline was deleted."
    if status.endswith("_IN_PROGRESS"):
        return "InProgress", f"Stack {name}: {status}.", None
    error = _difference(_outputs(stack), template)
    if error:
        return "Failed", f"Stack {name} is {status}, but its endpoint is not as asked.", error
    done = "updated" if status.startswith("UPDATE") else "created"
    return "Succeeded", f"Stack {name} was {done}.", None


def _failure_reasons(stack: dict) -> str:
    """Why the latest create or update failed: the reasons in the stack's own events."""
    events = client("cloudformation").describe_stack_events(StackName=stack["StackId"])
    reasons = []
    for event in events["StackEvents"]:  # the newest first
        state, reason = event["ResourceStatus"], event.get("ResourceStatusReason", "")
        of_stack = event["ResourceType"] == "AWS::CloudFormation::Stack"
        if of_stack and state in ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS"):
            break
        if state.endswith("_FAILED") and not of_stack and reason:
            reasons.append(f"{event['LogicalResourceId']}: {reason}")
    return " ".join(reversed(reasons)) or stack.get("StackStatusReason", "No reason was given.")


def _model_url(template: dict) -> str:
    return template["Resources"]["Model"]["Properties"]["PrimaryContainer"]["ModelDataUrl"]


def _difference(outputs: dict[str, str], template: dict) -> str | None:
    """What the running endpoint has otherwise than the plan asked, in words; None if nothing.

    CloudFormation has been seen to report success while SageMaker had rolled back, and
    updates to drop data capture; so the running endpoint itself is asked.
    """
    endpoint = _endpoint(outputs["SageMakerEndpointName"])
    if endpoint["EndpointStatus"] == "Failed":
        return f"The endpoint failed: {endpoint.get('FailureReason', 'no reason was given')}"
    running = endpoint["EndpointConfigName"]
    asked = outputs["SageMakerEndpointConfigName"]
    if running != asked:
        return f"The endpoint runs the configuration {running}, not {asked}."
    sagemaker = client("sagemaker")
    config = sagemaker.describe_endpoint_config(EndpointConfigName=running)
    capture = template["Resources"]["EndpointConfig"]["Properties"]["DataCaptureConfig"]
    captured = config.get("DataCaptureConfig", {})
    for key, value in capture.items():
        if captured.get(key) != value:
            return f"DataCaptureConfig.{key} is {captured.get(key)!r}, not {value!r}."
    model_name = config["ProductionVariants"][0]["ModelName"]
    model = sagemaker.describe_model(ModelName=model_name)
    served = model["PrimaryContainer"]["ModelDataUrl"]
    if served != _model_url(template):
        return f"The endpoint serves {served}, not {_model_url(template)}."
    return None


# -- POST /pipelines/<stack>/inference ------------------------------------------------


def infer(stack_name: str, body: dict) -> str:
    """The endpoint's answer to `payload`, as the original's inference API gives it."""
    for key in ("payload", "content_type"):
        if key not in body:
            raise BadRequest(contract.MISSING_KEY.format(key))
    payload, content_type = body["payload"], body["content_type"]
    if not isinstance(content_type, str):
        raise BadRequest("Bad request. content_type must be a string")
    stack = client("cloudformation").describe_stacks(StackName=stack_name)["Stacks"][0]
    endpoint = _outputs(stack).get("SageMakerEndpointName")
    if endpoint is None:
        raise BadRequest(f"Bad request. Pipeline {stack_name} has no endpoint yet")
    answer = client("sagemaker-runtime").invoke_endpoint(
        EndpointName=endpoint,
        Body=payload if isinstance(payload, str) else json.dumps(payload),
        ContentType=content_type,
    )
    return answer["Body"].read().decode()


# -- an object in the assets bucket ---------------------------------------------------


def _configuration(record: dict) -> dict:
    """Provision what a configuration object holds; a failure is told to the topic.

    Nobody receives the answer to an event, so without that it would only be in the log.
    """
    place = record["s3"]
    bucket, key = place["bucket"]["name"], unquote_plus(place["object"]["key"])

    def work() -> str:
        content = client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
        return json.dumps(provision(contract.parse_body(content.decode(errors="replace"))))

    answer = _answered(work)
    if answer["statusCode"] != 200:
        _tell("A configuration was refused", f"s3://{bucket}/{key}: {answer['body']}")
    return answer


# -- news for the topic ---------------------------------------------------------------


def _tell_of_stack(detail: dict) -> dict:
    """Tell the topic what became of a pipeline, with the reason when it failed."""
    stack_id, status = detail["stack-id"], detail["status-details"]["status"]
    name = stack_id.split("/")[1]
    news = {
        "CREATE_COMPLETE": "is in service",
        "UPDATE_COMPLETE": "is in service with the new version",
        "UPDATE_ROLLBACK_COMPLETE": "was rolled back; the previous version keeps answering",
        "DELETE_COMPLETE": "was deleted",
    }.get(status, "failed")
    message = f"Pipeline {name} {news} ({status})."
    if "FAILED" in status or "ROLLBACK" in status:
        message += " " + _failure_reasons({"StackId": stack_id})
    _tell(f"Pipeline {news.partition(';')[0]}", message)
    return {"told": message}


def _tell(subject: str, message: str) -> None:
    topic = os.environ.get("NOTIFICATIONS_TOPIC")
    if topic:
        client("sns").publish(TopicArn=topic, Subject=subject[:100], Message=message)
