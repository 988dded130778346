"""Where requests go, and how they are signed: the sandbox on this machine, or AWS.

`TARGET=local`, the default, is the sandbox of this checkout. ORCHESTRATOR_URL and
ASSETS_BUCKET, as `make -s env` prints them, name another one on this machine.

`TARGET=aws` is an orchestrator in your AWS account: ours, launched by `make launch`, or the
original MLOps Workload Orchestrator. It is found by the outputs of the stack that STACK
names (ORCHESTRATOR_URL overrides the API's address, for a domain name of one's own);
credentials and region come from where the AWS CLI takes them.
"""

import os
import sys
from dataclasses import dataclass
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, NoCredentialsError, NoRegionError

from clients import sandbox
from clients.refusals import explained
from common.errors import TargetError
from common.output import say
from orchestrator.environment import expect_owner

STACK = "pulsar-orchestrator"  # the usual name of our stack on AWS
# This environment's AWS CLI: not its script, whose first line breaks when the checkout is moved.
AWS_COMMAND = (sys.executable, "-m", "awscli")
API_OUTPUT = "PipelineOrchestrationLambdaRestApiEndpoint"


@dataclass(frozen=True)
class Target:
    """One deployment of the orchestrator, and the credentials to talk to it."""

    url: str  # of the orchestrator's API, ending in a slash
    bucket: str
    session: boto3.Session
    endpoint_url: str | None = None  # the sandbox's; AWS's services have their own
    s3_url: str | None = None
    environment: dict[str, str] | None = None  # what `aws` needs beside the user's own
    is_original: bool = False  # AWS's deprecated orchestrator, not ours
    account: str | None = None  # on AWS: whose the buckets must be
    orchestrator: str | None = None  # on AWS: the name that its pipelines carry
    guest_of: str | None = None  # another checkout's sandbox, which ORCHESTRATOR_URL names

    @property
    def region(self) -> str:
        return self.session.region_name

    def client(self, service: str):
        url = self.s3_url if service == "s3" else self.endpoint_url
        return client_of(self.session, service, url, self.account)


def client_of(session: boto3.Session, service: str, url: str | None, account: str | None):
    """A client of one of AWS's services, at `url` where that is a sandbox's; its buckets must be the
    account's."""
    config = Config(
        connect_timeout=5, read_timeout=70, retries={"mode": "standard", "max_attempts": 5}
    )
    made = session.client(service, endpoint_url=url, config=config)
    if service == "s3" and account:
        expect_owner(made, account)
    return made


def name() -> str:
    """`local` or `aws`: the word without which nothing is billed."""
    name = os.environ.get("TARGET", "local")
    if name not in ("local", "aws"):
        raise TargetError(f"there is no target called {name}", "TARGET=local or TARGET=aws")
    return name


def resolve() -> Target:
    """The target of this command; TargetError when it is not there."""
    return _aws() if name() == "aws" else _local()


def _local() -> Target:
    guest_of = None
    if os.environ.get("ORCHESTRATOR_URL"):
        environment = _environment_of_shell()
        guest_of = sandbox.other_than_own(environment["AWS_ENDPOINT_URL"])
        if guest_of:
            say(f"sandbox: {guest_of}, by ORCHESTRATOR_URL; not this checkout's")
    else:
        environment = sandbox.environment()
        if sandbox.FOLDER != sandbox.OWN_FOLDER:
            say(f"sandbox: {sandbox.FOLDER}, by SANDBOX_DIR; not this checkout's")
    # Nothing of the user's own AWS set-up may leak into requests to the sandbox.
    for key in [key for key in os.environ if key.startswith("AWS_")]:
        del os.environ[key]
    os.environ |= {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    session = boto3.Session(
        environment["AWS_ACCESS_KEY_ID"],
        environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_DEFAULT_REGION"],
    )
    url = environment["ORCHESTRATOR_URL"].rstrip("/") + "/"
    endpoints = environment["AWS_ENDPOINT_URL"], environment["AWS_ENDPOINT_URL_S3"]
    return Target(
        url, environment["ASSETS_BUCKET"], session, *endpoints, environment,
        guest_of=guest_of,
    )  # fmt: skip


def _environment_of_shell() -> dict[str, str]:
    """A sandbox's variables, as `make env` has put them into the shell; TargetError for half of
    them, and for what is not on this machine."""
    wanted = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
              "AWS_DEFAULT_REGION", "ORCHESTRATOR_URL", "ASSETS_BUCKET")  # fmt: skip
    missing = [key for key in wanted if not os.environ.get(key)]
    if missing:
        raise TargetError(
            f"ORCHESTRATOR_URL is set, but {missing[0]} is not", 'eval "$(make -s env)"'
        )
    environment = {key: os.environ[key] for key in wanted}
    s3 = os.environ.get("AWS_ENDPOINT_URL_S3") or environment["AWS_ENDPOINT_URL"]
    environment["AWS_ENDPOINT_URL_S3"] = s3
    for key in ("ORCHESTRATOR_URL", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        if not _is_here(environment[key]):
            raise TargetError(
                f"{key} is not on this machine, and TARGET is local",
                "unset ORCHESTRATOR_URL, or TARGET=aws",
            )
    return environment


def _is_here(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.hostname in ("127.0.0.1", "localhost") and bool(parts.port)
    except ValueError:
        return False


def aws_session() -> boto3.Session:
    """The user's own session; TargetError when there are no credentials or no region, or those of a
    sandbox."""
    if os.environ.get("AWS_ACCESS_KEY_ID", "").startswith("SANDBOX"):
        raise TargetError(
            "TARGET is aws, but this shell has the variables of a sandbox (make env)",
            "type it in another shell",
        )
    with explained():
        session = boto3.Session()
        if session.region_name is None:
            raise NoRegionError()
        if session.get_credentials() is None:
            raise NoCredentialsError()
    return session


def on_aws(refusal: str, remedy: str) -> tuple[boto3.Session, str]:
    """Session and stack of a verb that is for AWS alone; TargetError on a laptop."""
    if name() != "aws":
        raise TargetError(refusal, remedy)
    return aws_session(), stack_name()


def stack_name() -> str:
    return os.environ.get("STACK", STACK)


def _aws() -> Target:
    session, stack = aws_session(), stack_name()
    with explained():
        try:
            answer = session.client("cloudformation").describe_stacks(StackName=stack)
        except ClientError as error:
            if "does not exist" not in str(error):
                raise
            raise TargetError(
                f"there is no stack {stack} in {session.region_name}",
                "make launch TARGET=aws, or STACK=<name of the orchestrator's stack>",
            ) from None
    found = answer["Stacks"][0]
    outputs = {o["OutputKey"]: o["OutputValue"] for o in found.get("Outputs", [])}
    account = found["StackId"].split(":")[4]
    return _from_outputs(outputs, session, found["StackName"], account)


def _from_outputs(
    outputs: dict[str, str], session: boto3.Session, stack: str, account: str
) -> Target:
    """Ours and the original's outputs differ in a suffix, and in how they name the bucket."""
    url = next((v for k, v in outputs.items() if k.startswith(API_OUTPUT)), None)
    bucket = outputs.get("AssetsBucket", "")
    if url is None or not bucket:
        raise TargetError(f"the stack {stack} is no orchestrator: it has no {API_OUTPUT}…")
    url = os.environ.get("ORCHESTRATOR_URL", url)  # a domain name of one's own in front
    return Target(
        url.rstrip("/") + "/",
        bucket.rstrip("/").rpartition("/")[2],  # the original gives a console URL
        session,
        environment={},
        is_original="BlueprintsBucket" in outputs,
        account=account,
        orchestrator=stack,
    )
