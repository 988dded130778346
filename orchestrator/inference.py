"""POST /pipelines/<stack>/inference: an endpoint's answer, as the original's inference API gives it."""

import json

from orchestrator import contract
from orchestrator.cloudformation import must_be_ours, outputs_of
from orchestrator.contract import BadRequest
from orchestrator.environment import client


def infer(stack_name: str, body: dict) -> str:
    if "payload" not in body:
        raise BadRequest(contract.MISSING_KEY.format("payload"))
    payload, content_type = body["payload"], contract.text(body, "content_type")
    content = payload if isinstance(payload, str) else json.dumps(payload)
    try:
        content.encode()
    except UnicodeEncodeError:
        raise BadRequest("Bad request. payload holds what is no text") from None
    stack = client("cloudformation").describe_stacks(StackName=stack_name)["Stacks"][0]
    must_be_ours(stack)
    endpoint = outputs_of(stack).get("SageMakerEndpointName")
    if endpoint is None:
        raise BadRequest(f"Bad request. Pipeline {stack_name} has no endpoint yet")
    answer = client("sagemaker-runtime").invoke_endpoint(
        EndpointName=endpoint,
        Body=content,
        ContentType=content_type,
    )
    return answer["Body"].read().decode()
