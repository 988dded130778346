"""How long the logs of a pipeline's endpoints are kept.

SageMaker makes an endpoint's log group when the container first writes, and keeps it for ever. So
when a stack has come to rest the groups of its endpoints are given an end: made where they are not
there yet, which SageMaker takes as it finds them. A resource of the plan could not do that: the
group may be older than the stack, the endpoint's name unknown until it is made, and the reason of a
failure gone with the stack.
"""

import os

from botocore.exceptions import ClientError

from orchestrator.environment import client

# The log groups that SageMaker calls after a resource. (The group of transform jobs is one for the
# whole account, and so not ours to limit.)
GROUPS = {"AWS::SageMaker::Endpoint": "/aws/sagemaker/Endpoints/{}"}


def expire(stack: dict) -> None:
    """Give the logs of what a stack holds, or of what failed to be made, LOG_RETENTION_DAYS."""
    days = os.environ.get("LOG_RETENTION_DAYS")
    if not days:
        return
    listed = client("cloudformation").list_stack_resources(StackName=stack["StackId"])
    for resource in listed["StackResourceSummaries"]:
        name = resource.get("PhysicalResourceId", "").rpartition("/")[2]  # of its ARN
        if name and resource["ResourceType"] in GROUPS:
            _keep(GROUPS[resource["ResourceType"]].format(name), int(days))


def _keep(group: str, days: int) -> None:
    logs = client("logs")
    try:
        logs.create_log_group(logGroupName=group)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceAlreadyExistsException":
            raise
    logs.put_retention_policy(logGroupName=group, retentionInDays=days)
