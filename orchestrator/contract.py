"""The REST contract: its paths and words, the shape of its answers, how a value is checked.

The contract is that of AWS's "MLOps Workload Orchestrator" v2.2.3, so that clients written for
it work unchanged. Where it answered a client's mistake with a 500, or accepted a value that could
only fail later, ours is a 400 that names the key (docs/orchestrator.md lists every difference).
Which keys a pipeline type has is said in `pipelines/`, not here.

    BadRequest              the client's mistake: 400
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

PROVISION_PATH = "/provisionpipeline"
STATUS_PATH = "/pipelinestatus"
INFERENCE_PATH = re.compile(r"/pipelines/([A-Za-z0-9-]+)/inference")
STACK_PREFIX = "mlops-pipeline"

CREATED = "success: stack creation started"
UPDATING = "Pipeline {} is already provisioned. Updating template parameters."
BAD_REQUEST = "A BadRequest exception occurred"
CLIENT_ERROR = "A boto3 ClientError occurred"
SERVER_ERROR = "An Unexpected Server side exception occurred"
WRONG_PATH = f"Unacceptable event path. Path must be {PROVISION_PATH} or {STATUS_PATH}"
WRONG_METHOD = (
    "Bad request format. Expected httpMethod or pipeline_type, received none. "
    "Check documentation for API & config formats."
)
WRONG_TYPE = (
    "Bad request format. Pipeline type not supported. Check documentation for API & config formats"
)
MISSING_KEY = "Bad request. API body does not have the necessary parameter: {}"


class BadRequest(Exception):
    """A request the client can mend; its text becomes `detailedMessage` of a 400."""


@dataclass(frozen=True)
class Request:
    """A valid provisioning request, its values cleaned."""

    pipeline_type: str
    model_name: str
    stack_name: str
    values: dict[str, str] = field(hash=False)  # every key of the pipeline type, "" when not sent


# -- answers --------------------------------------------------------------------------


def envelope(status_code: int, body: str) -> dict:
    """An answer as API Gateway takes it from a Lambda function."""
    return {
        "statusCode": status_code,
        "isBase64Encoded": False,
        "body": body,
        "headers": {"Content-Type": "plain/text"},  # sic: what the original sends
    }


def refusal(status_code: int, message: str, error: Exception, detailed: bool = True) -> dict:
    body = {"message": message}
    if detailed:
        body["detailedMessage"] = str(error)
    return envelope(status_code, json.dumps(body))


# -- requests -------------------------------------------------------------------------


def parse_body(body: str | None) -> dict:
    """The JSON object in a request's body."""

    def refuse_constant(name: str) -> None:
        raise BadRequest(f"Bad request. The body is not valid JSON: {name} is no JSON number")

    try:
        value = json.loads(body or "", parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"Bad request. The body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadRequest("Bad request. The body must be a JSON object")
    return value


def text(body: dict, key: str) -> str:
    """The value of a key that must be there, and be a string."""
    if key not in body:
        raise BadRequest(MISSING_KEY.format(key))
    value = body[key]
    return clean(key, value)


def clean(key: str, value: object) -> str:
    """A value that must be a printable string."""
    if not isinstance(value, str):
        raise BadRequest(f"Bad request. {key} must be a string, not {json.dumps(value)[:100]}")
    if not value.isprintable():  # it could not be shown again, in XML for one
        raise BadRequest(f"Bad request. {key} must be printable, not {json.dumps(value)[:100]}")
    return value


def stack_name(model_name: str, suffix: str) -> str:
    """A pipeline's stack, as the original calls it: `mlops-pipeline-<model>-<type>-codepipeline`."""
    return f"{STACK_PREFIX}-{model_name.lower().strip()}-{suffix}-codepipeline"


# -- what a value may be --------------------------------------------------------------

Check = Callable[[str, str], str]  # key and value to the cleaned value, or BadRequest


def matches(pattern: str, meaning: str) -> Check:
    compiled = re.compile(pattern)

    def check(key: str, value: str) -> str:
        if not compiled.fullmatch(value):
            raise BadRequest(f"Bad request. {key} must be {meaning}, not {value!r}")
        return value

    return check


def one_of(choices: tuple[str, ...]) -> Check:
    def check(key: str, value: str) -> str:
        if value not in choices:
            raise BadRequest(
                f"Bad request. {key} must be one of {', '.join(choices)}, not {value!r}"
            )
        return value

    return check


def anything(key: str, value: str) -> str:
    """For a value that only makes sense beside another one."""
    return value


def number(least: int, most: int) -> Check:
    def check(key: str, value: str) -> str:
        if not re.fullmatch(r"[0-9]{1,9}", value) or not least <= int(value) <= most:
            raise BadRequest(
                f"Bad request. {key} must be a whole number from {least} to {most}, not {value!r}"
            )
        return value

    return check


LONGEST_LOCATION = 512 - len("s3://")  # SageMaker's limit for where records are captured


def location(key: str, value: str) -> str:
    """`bucket/prefix` without a scheme; slashes at its end do not count."""
    value = value.rstrip("/")
    bucket, *parts = value.split("/")
    if (
        not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket)
        or re.search(r"\s", value)
        or len(value) > LONGEST_LOCATION
        or not {"", ".", ".."}.isdisjoint(parts)
    ):
        raise BadRequest(
            f"Bad request. {key} must be bucket/prefix (no s3:// in front), not {value!r}"
        )
    return value


def resource_name(key: str, value: str) -> str:
    """What something is to be called in SageMaker; capitals are made small, as the original does."""
    value = value.strip().lower()
    if value and not re.fullmatch(r"(?=.{1,63}$)[a-z0-9](-*[a-z0-9])*", value):
        raise BadRequest(
            f"Bad request. {key} must be letters, digits and hyphens (63 at most), not {value!r}"
        )
    return value


model_name = matches(
    r"\s*(?=\S{1,63}\s*$)[A-Za-z0-9](-*[A-Za-z0-9])*\s*",
    "letters, digits and hyphens (63 at most)",
)
artifact = matches(
    r"(?!s3://)[^/\s][^\s]*\.tar\.gz", "the key of a .tar.gz inside the assets bucket"
)
key = matches(r"(?!s3://)[^/\s]\S*", "the key of an object inside the assets bucket")
instance_type = matches(
    r"ml\.[a-z0-9-]+\.[a-z0-9-]+", "a SageMaker instance type such as ml.m5.large"
)
kms_key = matches(r"(arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:(key|alias)/\S+)?", "a KMS key's ARN")
image = matches(r"\S{1,255}", "the URI of a container image")
