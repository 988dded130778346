"""Where requests go: the sandbox on this machine, and how they are signed.

`TARGET=local`, the default, is the sandbox of this checkout. ORCHESTRATOR_URL and
ASSETS_BUCKET, as `make -s env` prints them, name another one on this machine.
"""

import json
import os
import string
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, HTTPClientError
from botocore.httpsession import URLLib3Session

import sandbox
from common import ROOT, TargetError, UserError, load_params
from orchestrator import contract

REALTIME = ROOT / "payloads" / "pulsar-realtime.json"


@dataclass(frozen=True)
class Target:
    """One deployment of the orchestrator, and the credentials to talk to it."""

    url: str  # of the orchestrator's API, ending in a slash
    bucket: str
    region: str
    environment: dict[str, str]  # for `aws`

    def session(self) -> boto3.Session:
        return boto3.Session(
            self.environment["AWS_ACCESS_KEY_ID"],
            self.environment["AWS_SECRET_ACCESS_KEY"],
            region_name=self.region,
        )

    def client(self, service: str):
        config = Config(
            connect_timeout=5, read_timeout=70, retries={"mode": "standard", "max_attempts": 3}
        )
        endpoint = self.environment["AWS_ENDPOINT_URL"]
        return self.session().client(service, endpoint_url=endpoint, config=config)


def resolve() -> Target:
    """The target of this command; TargetError when it is not there."""
    name = os.environ.get("TARGET", "local")
    if name != "local":
        raise TargetError(f"TARGET={name} is not in this version", "leave TARGET out: local")
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
                "unset ORCHESTRATOR_URL",
            )
    # Nothing of the user's own AWS set-up may leak into requests to the sandbox.
    for key in [key for key in os.environ if key.startswith("AWS_")]:
        del os.environ[key]
    os.environ |= {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    url = environment["ORCHESTRATOR_URL"].rstrip("/") + "/"
    region = environment["AWS_DEFAULT_REGION"]
    return Target(url, environment["ASSETS_BUCKET"], region, environment)


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


def pipeline_of(payload: dict) -> str:
    """The stack name that stands for a payload's pipeline: /pipelinestatus takes it as an id."""
    return contract.validate(payload).stack_name


def post(target: Target, path: str, body: dict) -> tuple[int, str]:
    """Send a signed request to the orchestrator: status and body of the answer."""
    url = target.url + path.lstrip("/")
    headers = {"Content-Type": "application/json"}
    request = AWSRequest("POST", url, headers=headers, data=json.dumps(body))
    SigV4Auth(target.session().get_credentials(), "execute-api", target.region).add_auth(request)
    try:
        answer = URLLib3Session(timeout=(5, 35)).send(request.prepare())
    except (HTTPClientError, BotoCoreError) as error:
        raise TargetError(f"{url} does not answer: {error}", "make sandbox") from None
    return answer.status_code, answer.text


def ask(target: Target, path: str, body: dict) -> dict:
    """Send a request that should succeed; TargetError holds the orchestrator's own words."""
    status, text = post(target, path, body)
    try:
        answer = json.loads(text)
    except ValueError:
        answer = {"message": text}
    if status != 200:
        detail = answer.get("detailedMessage") or answer.get("message") or text
        raise TargetError(f"{path} answered {status}: {detail}")
    return answer


def curl(target: Target, path: str, body: dict) -> str:
    """The same request as a curl command that signs; the secret stays in its variable."""
    return (
        f"curl --aws-sigv4 aws:amz:{target.region}:execute-api "
        '--user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" '
        f"-H 'Content-Type: application/json' -d '{json.dumps(body)}' {target.url}{path.lstrip('/')}"
    )
