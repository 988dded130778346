"""What differs from one deployment to the next: a handful of names, and the clients of AWS.

Nothing else in this package knows whether S3, CloudFormation and SageMaker are AWS's or the
sandbox's. That is decided by the environment alone:

    ASSETS_BUCKET         where models are uploaded
    SAGEMAKER_ROLE_ARN    the role SageMaker takes to run a model
    MONITOR_ROLE_ARN      the role it takes to run a monitor, which reads what was captured
    SCHEDULER_ROLE_ARN    the role EventBridge Scheduler takes to start one
    HANDLER_ARN           the handler itself, which CloudFormation calls for custom resources
    CFN_ROLE_ARN          the role CloudFormation takes to carry out a plan (optional)
    AWS_REGION            the region
    API_URL               where the orchestrator's API is, ending in a slash
    ACCOUNT_ID            the account that every bucket must belong to (optional)
    ORCHESTRATOR          the name that its pipelines carry, so that another orchestrator of the
                          account leaves them alone (optional: every pipeline is its own)
    LOG_RETENTION_DAYS    how long the logs of endpoints are kept (optional: for ever)
    NOTIFICATIONS_TOPIC   the SNS topic that is told of a configuration that failed (optional)
    AWS_ENDPOINT_URL      the sandbox's address, AWS_ENDPOINT_URL_S3 that of its object store;
                          unset on AWS
    ALLOW_DETAILED_ERROR_MESSAGE   "No" leaves `detailedMessage` out of error answers
"""

import os
from dataclasses import dataclass
from functools import cache

import boto3
from botocore.config import Config
from botocore.model import OperationModel


@dataclass(frozen=True)
class Site:
    """Where plans are carried out."""

    region: str
    assets_bucket: str
    sagemaker_role_arn: str
    monitor_role_arn: str
    scheduler_role_arn: str
    handler_arn: str
    api_url: str  # of the orchestrator, ending in a slash


def site() -> Site:
    return Site(
        os.environ["AWS_REGION"],
        os.environ["ASSETS_BUCKET"],
        os.environ["SAGEMAKER_ROLE_ARN"],
        os.environ["MONITOR_ROLE_ARN"],
        os.environ["SCHEDULER_ROLE_ARN"],
        os.environ["HANDLER_ARN"],
        os.environ["API_URL"],
    )


@cache
def client(service: str):
    retries = {"mode": "standard", "max_attempts": 4}
    config = Config(retries=retries, connect_timeout=5, read_timeout=20)
    made = boto3.client(service, config=config)
    if service == "s3" and "ACCOUNT_ID" in os.environ:
        expect_owner(made, os.environ["ACCOUNT_ID"])
    return made


def expect_owner(s3, account: str) -> None:
    """Have every request of a client say whose bucket it must be: names of buckets can be guessed,
    and whoever was quicker would get our models. S3 refuses another account's with a 403."""

    def name_owner(params: dict, model: OperationModel, **_) -> None:
        members = model.input_shape.members if model.input_shape else {}
        for owner in ("ExpectedBucketOwner", "ExpectedSourceBucketOwner"):
            if owner in members:
                params.setdefault(owner, account)

    s3.meta.events.register("provide-client-params.s3", name_owner)
