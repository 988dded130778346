"""The orchestrator's API, as clients call it: signed, patient, and read in both homes' words."""

import json
import time

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError, HTTPClientError
from botocore.httpsession import URLLib3Session

from clients.target import Target
from common.errors import TargetError
from orchestrator.contract import STATUS_PATH

ATTEMPTS = 3
IN_SERVICE, FAILED, IN_PROGRESS = 0, 1, 2
NOT_YET = "has not provisioned the pipeline yet"  # the original's one plain-text answer


def post(target: Target, path: str, body: dict) -> tuple[int, str]:
    """Send a signed request to the orchestrator: status and body of the answer.

    `path` is appended to the API's address; a full URL is taken as it is. What may pass
    (no connection, 429, 502 to 504) is tried three times, each time signed anew.
    """
    url = path if path.startswith("http") else target.url + path.lstrip("/")
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(2**attempt)
        request = AWSRequest(
            "POST", url, headers={"Content-Type": "application/json"}, data=json.dumps(body)
        )
        credentials = target.session.get_credentials()
        SigV4Auth(credentials, "execute-api", target.region).add_auth(request)
        try:
            answer = URLLib3Session(timeout=(5, 35)).send(request.prepare())
        except (HTTPClientError, BotoCoreError) as error:
            failure = error
            continue
        if answer.status_code not in (429, 502, 503, 504):
            return answer.status_code, answer.text
        failure = f"{answer.status_code} {answer.text[:200]}"
    remedy = "check network and region, or try again later"
    if target.endpoint_url:
        remedy = "unset ORCHESTRATOR_URL" if target.guest_of else "make sandbox"
    raise TargetError(f"{url} does not answer: {failure}", remedy)


def _remedy_of(status: int, detail: str) -> str:
    """What helps against an answer of the API; the orchestrator's own words often say it all."""
    if status == 403 and "not authorized" in detail:
        return "ask for the permission execute-api:Invoke on the orchestrator's API"
    if status == 403:
        return "your credentials are not, or no longer, valid here"
    if status == 429 or status >= 500:
        return "try again in a minute"
    return ""


def ask(target: Target, path: str, body: dict) -> dict:
    """Send a request that should succeed; TargetError holds the orchestrator's own words."""
    status, text = post(target, path, body)
    try:
        answer = json.loads(text)
    except ValueError:
        answer = {"message": text}
    if status != 200:
        detail = answer.get("detailedMessage") or answer.get("message") or text
        raise TargetError(f"{path} answered {status}: {detail}", _remedy_of(status, detail))
    return answer


def curl(target: Target, path: str, body: dict) -> str:
    """The same request as a curl command that signs; the secret stays in its variable."""
    return (
        f"curl --aws-sigv4 aws:amz:{target.region}:execute-api "
        '--user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" '
        f"-H 'Content-Type: application/json' -d '{json.dumps(body)}' {target.url}{path.lstrip('/')}"
    )


def status_of(target: Target, pipeline: str) -> dict:
    """A pipeline's state; one that is not there yet has no stages."""
    answer = ask(target, STATUS_PATH, {"pipeline_id": pipeline})
    if "stageStates" not in answer and NOT_YET in answer.get("message", ""):
        return {"pipelineName": pipeline, "stageStates": []}
    return answer


def verdict(state: dict) -> int:
    """In service when every stage has succeeded, failed when one has."""
    stages = [stage.get("latestExecution", {}).get("status") for stage in state["stageStates"]]
    if any(stage in ("Failed", "Stopped", "Cancelled") for stage in stages):
        return FAILED
    return IN_SERVICE if stages and all(s == "Succeeded" for s in stages) else IN_PROGRESS


def executions(state: dict) -> list[dict]:
    """The latest execution of every action of a pipeline."""
    return [
        action.get("latestExecution", {})
        for stage in state["stageStates"]
        for action in stage["actionStates"]
    ]


def reasons(state: dict) -> str:
    """What a pipeline's failed actions say of themselves; empty where none has failed."""
    told = [e["errorDetails"].get("message", "") for e in executions(state) if "errorDetails" in e]
    return " ".join(told)


def why(state: dict) -> str:
    """What a failed pipeline says of itself."""
    return reasons(state) or "the pipeline failed"
