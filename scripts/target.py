"""Where requests go, and how they are signed: the sandbox on this machine, or AWS.

`TARGET=local`, the default, is the sandbox of this checkout. ORCHESTRATOR_URL and
ASSETS_BUCKET, as `make -s env` prints them, name another one on this machine.

`TARGET=aws` is an orchestrator in your AWS account: ours, launched by `make launch`, or the
original MLOps Workload Orchestrator. It is found by the outputs of the stack that STACK
names (ORCHESTRATOR_URL overrides the API's address, for a domain name of one's own);
credentials and region come from where the AWS CLI takes them.
"""

import json
import os
import shutil
import string
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    ProfileNotFound,
)
from botocore.httpsession import URLLib3Session

import sandbox
from common import ROOT, TargetError, UserError, load_params
from orchestrator import contract

REALTIME = ROOT / "payloads" / "pulsar-realtime.json"
STACK = "pulsar-orchestrator"  # the usual name of our stack on AWS
ATTEMPTS = 3
API_OUTPUT = "PipelineOrchestrationLambdaRestApiEndpoint"


@dataclass(frozen=True)
class Target:
    """One deployment of the orchestrator, and the credentials to talk to it."""

    url: str  # of the orchestrator's API, ending in a slash
    bucket: str
    session: boto3.Session
    endpoint_url: str | None = None  # the sandbox's; AWS's services have their own
    environment: dict[str, str] | None = None  # what `aws` needs beside the user's own
    is_original: bool = False  # AWS's deprecated orchestrator, not ours

    @property
    def region(self) -> str:
        return self.session.region_name

    def client(self, service: str):
        config = Config(
            connect_timeout=5, read_timeout=70, retries={"mode": "standard", "max_attempts": 5}
        )
        return self.session.client(service, endpoint_url=self.endpoint_url, config=config)


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
    if "ORCHESTRATOR_URL" not in os.environ:
        environment = sandbox.environment()
    else:
        wanted = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
                  "AWS_DEFAULT_REGION", "ORCHESTRATOR_URL", "ASSETS_BUCKET")  # fmt: skip
        missing = [key for key in wanted if key not in os.environ]
        if missing:
            raise TargetError(
                f"ORCHESTRATOR_URL is set, but {missing[0]} is not", 'eval "$(make -s env)"'
            )
        environment = {key: os.environ[key] for key in wanted}
        if urlsplit(environment["ORCHESTRATOR_URL"]).hostname not in ("127.0.0.1", "localhost"):
            raise TargetError(
                "ORCHESTRATOR_URL is not on this machine, and TARGET is local",
                "unset ORCHESTRATOR_URL, or TARGET=aws",
            )
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
    endpoint = environment["AWS_ENDPOINT_URL"]
    return Target(url, environment["ASSETS_BUCKET"], session, endpoint, environment)


def aws_session() -> boto3.Session:
    """The user's own session; TargetError when there are no credentials or no region."""
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
    outputs = {o["OutputKey"]: o["OutputValue"] for o in answer["Stacks"][0].get("Outputs", [])}
    return _from_outputs(outputs, session, stack)


def _from_outputs(outputs: dict[str, str], session: boto3.Session, stack: str) -> Target:
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
    )


def aws_command() -> str:
    """The AWS CLI: this environment's own, else the one on the PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = shutil.which("aws", path=path)
    if command is None:
        raise TargetError("the AWS CLI is not installed", "make setup")
    return command


@contextmanager
def explained() -> Iterator[None]:
    """Turn what AWS refuses into one line that says what to do."""
    try:
        yield
    except (NoCredentialsError, ProfileNotFound) as error:
        raise TargetError(
            f"no AWS credentials: {error}", "aws configure, or aws sso login"
        ) from None
    except NoRegionError:
        raise TargetError("no AWS region is set", "aws configure set region us-east-1") from None
    except ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
        raise TargetError(f"AWS refused: {message} ({code})", _remedy(code, message)) from None
    except BotoCoreError as error:
        raise TargetError(f"AWS does not answer: {error}", "check network and region") from None


def _remedy(code: str, message: str) -> str:
    if "Expired" in code or "InvalidClientTokenId" in code or "UnrecognizedClient" in code:
        return "your credentials are no longer valid: aws sso login, or aws configure"
    if code in ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation"):
        return "ask for the permission that the message names"
    if code == "ResourceLimitExceeded" or "limit" in message.lower():
        return "ask for the quota: Service Quotas, Amazon SageMaker, endpoint usage of the instance"
    if code in ("PermanentRedirect", "IllegalLocationConstraintException"):
        return "the bucket is in another region: set AWS_DEFAULT_REGION to it"
    if "Throttl" in code or code == "TooManyRequestsException":
        return "AWS asks for patience: try again in a minute"
    return ""


def load_payload(path: Path, bucket: str) -> dict:
    """A payload with its placeholders filled: ${ASSETS_BUCKET} and ${IMAGE}."""
    try:
        text = path.read_text()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", "ls payloads/") from None
    values = {"ASSETS_BUCKET": bucket, "IMAGE": load_params()["image"]}
    try:
        payload = json.loads(string.Template(text).substitute(values))
    except KeyError as error:
        known = ", ".join("${" + key + "}" for key in values)
        raise UserError(
            f"{path}: unknown placeholder ${{{error.args[0]}}}", f"known: {known}"
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(payload, dict):
        raise UserError(f"{path} is not a JSON object")
    return payload


def pipeline_of(payload: dict, path: Path) -> str:
    """The stack name that stands for a payload's pipeline: /pipelinestatus takes it as an id."""
    try:
        return contract.stack_name(payload["pipeline_type"], payload["model_name"])
    except (KeyError, AttributeError, TypeError):
        known = ", ".join(contract.STACK_SUFFIXES)
        raise UserError(
            f"{path} must name a model_name and a known pipeline_type", f"one of: {known}"
        ) from None


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
    remedy = (
        "make sandbox" if target.endpoint_url else "check network and region, or try again later"
    )
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
