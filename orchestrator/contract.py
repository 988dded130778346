"""The REST contract: which requests are valid, what stacks are called, how answers look.

The contract is that of AWS's "MLOps Workload Orchestrator" v2.2.3: its paths, keys, stack
names, messages and error bodies, so that clients written for it work unchanged. Where it
answered a client's mistake with a 500, or accepted a value that could only fail later,
this module answers 400 and names the key (docs/orchestrator.md lists every difference).

    BadRequest              the client's mistake: 400
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.images import FRAMEWORK_VERSIONS

PROVISION_PATH = "/provisionpipeline"
STATUS_PATH = "/pipelinestatus"
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


# -- what a value may be --------------------------------------------------------------


def _matches(pattern: str, meaning: str) -> Callable[[str, str], str]:
    compiled = re.compile(pattern)

    def check(key: str, value: str) -> str:
        if not compiled.fullmatch(value):
            raise BadRequest(f"Bad request. {key} must be {meaning}, not {value!r}")
        return value

    return check


def _one_of(choices: tuple[str, ...]) -> Callable[[str, str], str]:
    def check(key: str, value: str) -> str:
        if value not in choices:
            raise BadRequest(
                f"Bad request. {key} must be one of {', '.join(choices)}, not {value!r}"
            )
        return value

    return check


def _location(key: str, value: str) -> str:
    """`bucket/prefix` without a scheme; slashes at its end do not count."""
    value = value.rstrip("/")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^/\s][^\s]*)?", value):
        raise BadRequest(
            f"Bad request. {key} must be bucket/prefix (no s3:// in front), not {value!r}"
        )
    return value


def _endpoint_name(key: str, value: str) -> str:
    value = value.strip().lower()
    if value and not re.fullmatch(r"[a-z0-9](-*[a-z0-9]){0,62}", value):
        raise BadRequest(
            f"Bad request. {key} must be letters, digits and hyphens (63 at most), not {value!r}"
        )
    return value


_MODEL_NAME = _matches(r"\s*[A-Za-z0-9](-*[A-Za-z0-9]){0,62}\s*", "letters, digits and hyphens")
_ARTIFACT = _matches(
    r"(?!s3://)[^/\s][^\s]*\.tar\.gz", "the key of a .tar.gz inside the assets bucket"
)
_INSTANCE = _matches(r"ml\.[a-z0-9-]+\.[a-z0-9-]+", "a SageMaker instance type such as ml.m5.large")
_KMS = _matches(r"(arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:(key|alias)/\S+)?", "a KMS key's ARN")
_IMAGE = _matches(r"\S{1,255}", "the URI of a container image")

# -- the pipeline types: required keys in the order they are checked, then optional ones ----

_OPTIONAL = {"endpoint_name": _endpoint_name, "kms_key_arn": _KMS}
PIPELINES: dict[str, dict[str, Callable[[str, str], str]]] = {
    "byom_realtime_builtin": {
        "model_name": _MODEL_NAME,
        "inference_instance": _INSTANCE,
        "model_framework": _one_of(tuple(FRAMEWORK_VERSIONS)),
        "model_framework_version": lambda key, value: value,  # depends on the framework: below
        "model_artifact_location": _ARTIFACT,
        "data_capture_location": _location,
    },
    "byom_realtime_custom": {
        "model_name": _MODEL_NAME,
        "inference_instance": _INSTANCE,
        "custom_image_uri": _IMAGE,
        "model_artifact_location": _ARTIFACT,
        "data_capture_location": _location,
    },
}


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


def _text(body: dict, key: str) -> str:
    """The value of a key, which must be a string: every key of these pipeline types is one."""
    value = body[key]
    if not isinstance(value, str):
        raise BadRequest(f"Bad request. {key} must be a string, not {json.dumps(value)}")
    return value


def validate(body: dict) -> Request:
    """Check a provisioning body, and clean its values.

    Raises BadRequest with the first thing that is wrong, in the original's order: the
    type, then missing keys, then values.
    """
    pipeline_type = body.get("pipeline_type")
    if not isinstance(pipeline_type, str) or pipeline_type not in PIPELINES:
        raise BadRequest(WRONG_TYPE)
    required = PIPELINES[pipeline_type]
    for key in required:
        if key not in body:
            raise BadRequest(MISSING_KEY.format(key))
    if "model_package_name" in body:
        raise BadRequest(
            "Bad request. model_package_name needs a model registry, which is not supported; "
            "send model_artifact_location alone"
        )
    values = {}
    for key, check in (required | _OPTIONAL).items():
        values[key] = check(key, _text(body, key)) if key in body else ""
    if pipeline_type == "byom_realtime_builtin":
        versions = FRAMEWORK_VERSIONS[values["model_framework"]]
        _one_of(versions)("model_framework_version", values["model_framework_version"])
    model_name = values["model_name"].strip()
    return Request(pipeline_type, model_name, stack_name(pipeline_type, model_name), values)


# Every type of the original, ours or not: its clients ask for the status of any of them.
STACK_SUFFIXES = {
    "byom_realtime_builtin": "byompipelinerealtimebuiltin",
    "byom_realtime_custom": "byompipelinerealtimecustom",
    "byom_batch_builtin": "byompipelinebatchbuiltin",
    "byom_batch_custom": "byompipelinebatchcustom",
    "byom_data_quality_monitor": "byomdataqualitymonitor",
    "byom_model_quality_monitor": "byommodelqualitymonitor",
    "byom_model_bias_monitor": "byommodelbiasmonitor",
    "byom_model_explainability_monitor": "byommodelexplainabilitymonitor",
    "model_training_builtin": "modeltraining",
    "model_tuner_builtin": "tunertraining",
    "model_autopilot_training": "autopilottraining",
}


def stack_name(pipeline_type: str, model_name: str) -> str:
    """The stack of a pipeline, as the original calls it: `mlops-pipeline-<model>-<type>-codepipeline`."""
    infix = model_name.lower().strip()
    return f"{STACK_PREFIX}-{infix}-{STACK_SUFFIXES[pipeline_type]}-codepipeline"


def pipeline_id_of(body: dict) -> str:
    """The stack that a status request asks for: its ARN or its name."""
    if "pipeline_id" not in body:
        raise BadRequest(MISSING_KEY.format("pipeline_id"))
    return _text(body, "pipeline_id")
