"""The orchestrator's Lambda handler, and the sandbox's too: events in, answers out.

`handler(event, context)` tells the kinds of event apart and hands each to the module that knows
what to do; it wraps what comes back in the contract's envelope. Which pipelines there are is said
in `pipelines/`, what depends on where it runs in `environment.py`.
"""

import json
import logging
import os
from collections.abc import Callable
from urllib.parse import unquote_plus

from botocore.exceptions import ClientError

from orchestrator import contract, jobs, news
from orchestrator.contract import BadRequest
from orchestrator.environment import client
from orchestrator.inference import infer
from orchestrator.provision import provision
from orchestrator.status import status

log = logging.getLogger(__name__)


def handler(event: dict, context: object) -> dict:
    """Answer one event:

    a request to the API            → an answer in the contract's envelope, errors included
    an object mlops-config.json…    → what it holds is provisioned
    a custom resource of a stack    → a job is started or stopped
    a stack that has changed state  → the topic is told, its logs are given an end
    """
    if "Records" in event:
        return {"answers": [_configuration(record) for record in event["Records"]]}
    if "RequestType" in event:
        return jobs.answer(event)
    if event.get("source") == "aws.cloudformation":
        return news.of_stack(event["detail"])
    return _answered(lambda: _route(event))


def _route(event: dict) -> str:
    if event.get("httpMethod") != "POST":
        raise BadRequest(contract.WRONG_METHOD)
    path, body = event.get("path") or "", event.get("body")
    if path == contract.PROVISION_PATH:
        return json.dumps(provision(contract.parse_body(body)))
    if path == contract.STATUS_PATH:
        return json.dumps(status(contract.parse_body(body)), indent=4)
    if match := contract.INFERENCE_PATH.fullmatch(path):
        return infer(match[1], contract.parse_body(body))
    raise BadRequest(contract.WRONG_PATH)


def _answered(work: Callable[[], str]) -> dict:
    detailed = os.environ.get("ALLOW_DETAILED_ERROR_MESSAGE", "Yes") == "Yes"
    try:
        return contract.envelope(200, work())
    except BadRequest as error:
        return contract.refusal(400, contract.BAD_REQUEST, error, detailed)
    except ClientError as error:
        code = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return contract.refusal(code, contract.CLIENT_ERROR, error, detailed)
    except Exception as error:
        log.exception("the request failed")
        return contract.refusal(500, contract.SERVER_ERROR, error, detailed)


def _configuration(record: dict) -> dict:
    """Provision what a configuration object holds; a failure is told to the topic.

    Nobody receives the answer to an event, so without that it would only be in the log.
    """
    place = record["s3"]
    bucket, key = place["bucket"]["name"], unquote_plus(place["object"]["key"])

    def work() -> str:
        content = client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
        return json.dumps(provision(contract.parse_body(content.decode(errors="surrogateescape"))))

    answer = _answered(work)
    if answer["statusCode"] != 200:
        news.tell("A configuration was refused", f"s3://{bucket}/{key}: {answer['body']}")
    return answer
