"""Monitors: what an endpoint has captured against a baseline, by a schedule and at any time.

byom_data_quality_monitor           do the candidates still look as they did?
byom_model_quality_monitor          are the answers still right? It has to be told what was true
byom_model_bias_monitor             are some candidates treated otherwise than others? Likewise
byom_model_explainability_monitor   does the model still look at the same features?

The baseline is a processing job of the stack, each check one that EventBridge Scheduler starts. Both
run `orchestrator/monitors` in the scikit-learn image: AWS takes no new customers for Model Monitor and
Clarify, whose images the original starts.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from botocore.exceptions import ClientError

from orchestrator import contract, schedules
from orchestrator.contract import BadRequest, Check, Request
from orchestrator.environment import Site, client
from orchestrator.images import DEFAULT_IMAGE, image_uri
from orchestrator.monitors import archive
from orchestrator.monitors.frame import BIAS_KEYS, PREDICTED_KEYS, SHAP_KEYS
from orchestrator.pipelines.family import PipelineType

BASELINE_DATA, CODE = "baseline_data", "monitors.zip"
INPUT, OUTPUT = "/opt/ml/processing/input", "/opt/ml/processing/output"
CODE_FILE = f"{INPUT}/code/{CODE}"
BASELINE_SECONDS = 3600  # where the payload names none
WRONG_PROBLEM = (  # of whichever type: the original names this one
    "Bad request format. Unsupported problem_type in byom_model_quality_monitor pipeline"
)
PROBLEMS = ("Regression", "BinaryClassification", "MulticlassClassification")
CREATE_JOB = "arn:aws:scheduler:::aws-sdk:sagemaker:createProcessingJob"
BASELINE_JOB = "<baseline job>"  # until CloudFormation knows its name

# AWS's own bias metrics, which the scikit-learn image does not carry, and what they import that it
# may not: wheels of Python alone, whose digests the lock files have, too.
SMCLARIFY = (
    "smclarify==0.5 --hash=sha256:49ed1d65b4296e8458f00dae156fb4dceb25c4e4752b756a558a5fd2e9379233",
    "pyfunctional==1.5.0 --hash=sha256:dfee0f4110f4167801bb12f8d497230793392f694655103b794460daefbebf2b",
    "dill==0.4.1 --hash=sha256:1e1ce33e978ae97fcfcff5638477032b801c46c7c65cf717f95fbc2248f79a9d",
    "tabulate==0.10.0 --hash=sha256:f0b0622e567335c8fabaaa659f1b33bcb6ddfe2e496071b743aa113f8774f2d3",
)
# Where it is there already, as at home, nothing is installed. A word has 256 characters at most.
WITH_SMCLARIFY = (
    "python3 -c 'import importlib.util as u; exit(not u.find_spec(\"smclarify\"))' || "
    "printf '%s\\n' \"$@\" | python3 -m pip install -q --no-deps --require-hashes -r /dev/stdin; "
    'exec python3 "$0"'
)


@dataclass(frozen=True)
class Analysis:
    """What one kind of monitor is to the job that does its work."""

    name: str  # as in names of jobs and schedules
    kind: str  # SageMaker's MonitoringType
    variable: str  # analysis_type
    limits: str  # the baseline's file that holds what is allowed
    # A job's variables and the keys of the payload that fill them.
    baseline: Mapping[str, str]
    monitor: Mapping[str, str]
    command: tuple[str, ...] = ("python3", CODE_FILE)


QUALITY = {"problem_type": "problem_type"}
ANSWERS = {
    "inference_attribute": "monitor_inference_attribute",
    "probability_attribute": "monitor_probability_attribute",
    "probability_threshold_attribute": "probability_threshold_attribute",
}
DATA_QUALITY = Analysis("dataquality", "DataQuality", "DATA_QUALITY", "constraints.json", {}, {})
MODEL_QUALITY = Analysis(
    "modelquality", "ModelQuality", "MODEL_QUALITY", "constraints.json",
    QUALITY | {
        "inference_attribute": "baseline_inference_attribute",
        "probability_attribute": "baseline_probability_attribute",
        "probability_threshold_attribute": "probability_threshold_attribute",
        "ground_truth_attribute": "baseline_ground_truth_attribute",
    },
    QUALITY | ANSWERS,
)  # fmt: skip
BIAS = Analysis(
    "modelbias", "ModelBias", "MODEL_BIAS", "analysis.json",
    QUALITY | {
        "bias_config": "bias_config",
        "model_predicted_label_config": "model_predicted_label_config",
    },
    QUALITY | ANSWERS,
    ("bash", "-ec", WITH_SMCLARIFY, CODE_FILE, *SMCLARIFY),
)  # fmt: skip
EXPLAINABILITY = Analysis(
    "modelexplainability", "ModelExplainability", "MODEL_EXPLAINABILITY", "analysis.json",
    QUALITY | {"shap_config": "shap_config", "model_scores": "model_scores"},
    QUALITY | ANSWERS,
)  # fmt: skip


def plan(analysis: Analysis, request: Request, site: Site, artifacts: Mapping[str, str]) -> dict:
    """The job that makes the baseline, and the schedule that starts the checks."""
    values, endpoint = request.values, request.values["endpoint_name"]
    unique = hashlib.sha256(request.stack_name.encode()).hexdigest()[:4]
    end = f"-{analysis.name}-{unique}"
    schedule = f"{endpoint[: 63 - len(end)].rstrip('-')}{end}"
    baselines = f"s3://{values['baseline_job_output_location']}"
    results = f"s3://{values['monitoring_output_location']}/{endpoint}/{schedule}"
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": f"{request.pipeline_type} pipeline of the model {request.model_name}",
        "Resources": {
            "Baseline": {
                "Type": "Custom::ProcessingJob",
                "Properties": {
                    "ServiceToken": site.handler_arn,
                    "Name": schedule,
                    "Request": _baseline(analysis, values, site, artifacts, schedule, baselines),
                    "Started": {
                        "Name": check_begins(schedule),
                        "Environment": {"sagemaker_monitoring_schedule_name": schedule},
                    },
                },
            },
            "Schedule": {
                "Type": "AWS::Scheduler::Schedule",
                "Properties": {
                    "Name": schedule,
                    "Description": f"{request.pipeline_type} of the endpoint {endpoint}",
                    "ScheduleExpression": values["schedule_expression"],
                    "FlexibleTimeWindow": {"Mode": "OFF"},
                    "State": "ENABLED",
                    "Target": {
                        "Arn": CREATE_JOB,
                        "RoleArn": site.scheduler_role_arn,
                        "Input": _with_baseline(
                            _check(analysis, values, site, artifacts, schedule, baselines, results)
                        ),
                    },
                },
            },
        },
        "Outputs": {
            "BaselineName": {"Value": {"Ref": "Baseline"}},
            "MonitoringScheduleJobName": {"Value": {"Ref": "Schedule"}},
            "MonitoringScheduleType": {"Value": analysis.kind},
            "ScheduleExpression": {"Value": values["schedule_expression"]},
            "BaselineJobOutput": {"Value": {"Fn::Sub": f"{baselines}/${{Baseline}}/"}},
            "MonitoringScheduleOutput": {"Value": f"{results}/"},
            "MonitoredSagemakerEndpoint": {"Value": endpoint},
            "DataCaptureS3Location": {
                "Value": f"s3://{values['data_capture_location']}/{endpoint}/"
            },
        },
    }


def _baseline(
    analysis: Analysis, values: dict, site: Site, artifacts: Mapping[str, str], schedule: str,
    baselines: str,
) -> dict:  # fmt: skip
    variables = _variables(analysis, "baseline", analysis.baseline, values, schedule)
    variables["dataset_source"] = f"{INPUT}/baseline"
    return _job(
        analysis, values, site, {"baseline": artifacts[BASELINE_DATA], "code": artifacts[CODE]}, variables,
        f"{baselines}/${{JobName}}",
        int(values["baseline_max_runtime_seconds"] or BASELINE_SECONDS),
    )  # fmt: skip


def _check(
    analysis: Analysis, values: dict, site: Site, artifacts: Mapping[str, str], schedule: str,
    baselines: str, results: str,
) -> dict:  # fmt: skip
    """CreateProcessingJob of one check; what stands in <> is filled in when it is due."""
    variables = _variables(analysis, "monitor", analysis.monitor, values, schedule) | {
        "dataset_source": f"s3://{values['data_capture_location']}",
        "results": results,
        "scheduled_time": "<aws.scheduler.scheduled-time>",
        "baseline_constraints": f"{INPUT}/baseline/{analysis.limits}",
    }
    if analysis is DATA_QUALITY:
        variables["baseline_statistics"] = f"{INPUT}/baseline/statistics.json"
    if analysis.limits == "analysis.json":
        variables["analysis_config"] = f"{INPUT}/baseline/monitor/analysis_config.json"
    if "monitor_ground_truth_input" in values:
        variables["ground_truth"] = f"s3://{values['monitor_ground_truth_input']}"
    request = _job(
        analysis, values, site, {"baseline": f"{baselines}/{BASELINE_JOB}", "code": artifacts[CODE]},
        variables, results, int(values["monitor_max_runtime_seconds"]),
    )  # fmt: skip
    name = f"{check_begins(schedule)}<aws.scheduler.execution-id>"
    return {"ProcessingJobName": name} | request


def check_begins(schedule: str) -> str:
    """How the names of a schedule's jobs begin. An execution's id, a UUID, takes 36 characters of the 63
    that a name may have."""
    return f"{schedule[:26].rstrip('-')}-"


def _variables(
    analysis: Analysis, job: str, keys: Mapping[str, str], values: dict, schedule: str
) -> dict[str, str]:
    given = {name: values[key] for name, key in keys.items() if values.get(key)}
    return given | {
        "analysis_type": analysis.variable,
        "job": job,
        "output_path": OUTPUT,
        "sagemaker_endpoint_name": values["endpoint_name"],
        "sagemaker_monitoring_schedule_name": schedule,
        "exit_message_path": "/opt/ml/output/message",
        "metrics_path": "/opt/ml/output/metrics/cloudwatch",
    }


def _job(
    analysis: Analysis, values: dict, site: Site, inputs: dict[str, str], variables: dict[str, str], output: str,
    seconds: int,
) -> dict:  # fmt: skip
    """CreateProcessingJob's members, but for the name."""
    kms = values["kms_key_arn"]
    return {
        "RoleArn": site.monitor_role_arn,
        "AppSpecification": {
            "ImageUri": image_uri("sklearn", DEFAULT_IMAGE, site.region),
            "ContainerEntrypoint": [*analysis.command],
        },
        "Environment": variables,
        "ProcessingInputs": [
            {
                "InputName": name,
                "S3Input": {
                    "S3Uri": place,
                    "LocalPath": f"{INPUT}/{name}",
                    "S3DataType": "S3Prefix",
                    "S3InputMode": "File",
                },
            }
            for name, place in inputs.items()
        ],
        "ProcessingOutputConfig": {
            "Outputs": [
                {
                    "OutputName": "results",
                    "S3Output": {
                        "S3Uri": output,
                        "LocalPath": OUTPUT,
                        "S3UploadMode": "EndOfJob",
                    },
                }
            ],
            **({"KmsKeyId": kms} if kms else {}),
        },
        "ProcessingResources": {
            "ClusterConfig": {
                "InstanceType": values["instance_type"],
                "InstanceCount": 1,
                "VolumeSizeInGB": int(values["instance_volume_size"]),
                **({"VolumeKmsKeyId": kms} if kms else {}),
            }
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": seconds},
    }


def _with_baseline(request: dict) -> dict:
    """A request as the text that a schedule holds, with the name that the baseline's job will get."""
    text = json.dumps(request).replace("${", "${!")
    return {"Fn::Sub": text.replace(BASELINE_JOB, "${Baseline}")}


# -- what a payload may say -----------------------------------------------------------


def cron(key: str, value: str) -> str:
    """A cron expression that comes due some day."""
    if not value.startswith("cron("):
        raise BadRequest(f"Bad request. {key} must be cron(…) with six fields, not {value!r}")
    try:
        due = schedules.parse(value).next_after(datetime.now(UTC))
    except ValueError as error:
        raise BadRequest(f"Bad request. {key}: {error}") from None
    if due is None:
        raise BadRequest(f"Bad request. {key} never comes due: {value!r}")
    return value


def endpoint(key: str, value: str) -> str:
    value = contract.resource_name(key, value)
    if not value:
        raise BadRequest(f"Bad request. {key} must be the name of an endpoint")
    return value


def attribute_of(key: str, value: str) -> str:
    """The name, or the place, of a column."""
    if not 0 < len(value) <= LONGEST:
        raise BadRequest(f"Bad request. {key} must be the name of a column, not {value!r}")
    return value


def threshold(key: str, value: str) -> str:
    try:
        if 0 <= float(value) <= 1:
            return value
    except ValueError:
        pass
    raise BadRequest(f"Bad request. {key} must be a number from 0 to 1, not {value!r}")


LONGEST = 256  # characters of a job's variable


def settings(*allowed: str) -> Check:
    """A JSON object with none but these keys."""

    def check(key: str, value: str) -> str:
        try:
            given = json.loads(value)
        except ValueError:
            given = None
        if not isinstance(given, dict):
            raise BadRequest(f"Bad request. {key} must be a JSON object, not {value[:100]!r}")
        unknown = sorted(given.keys() - set(allowed))
        if unknown:
            raise BadRequest(
                f"Bad request. {key} has no {', '.join(unknown)}: its keys are {', '.join(allowed)}"
            )
        if len(value) > LONGEST:
            raise BadRequest(f"Bad request. {key} is longer than {LONGEST} characters of JSON")
        return value

    return check


def must_be_captured(values: dict[str, str]) -> None:
    """BadRequest unless the endpoint is there, and captures where the payload says."""
    name, wanted = values["endpoint_name"], f"s3://{values['data_capture_location']}"
    try:
        found = client("sagemaker").describe_endpoint(EndpointName=name)
    except ClientError as error:
        if "Could not find" not in error.response["Error"]["Message"]:
            raise
        raise BadRequest(
            f"Bad request. endpoint_name: there is no endpoint called {name}; provision it first"
        ) from None
    capture = found.get("DataCaptureConfig", {})
    if not capture.get("EnableCapture"):
        raise BadRequest(f"Bad request. endpoint_name: {name} captures nothing")
    if capture["DestinationS3Uri"].rstrip("/") != wanted:
        raise BadRequest(
            f"Bad request. data_capture_location: {name} captures to {capture['DestinationS3Uri']}, "
            f"not to {wanted}"
        )


LOCATIONS = ("baseline_job_output_location", "data_capture_location", "monitoring_output_location")
REQUIRED: dict[str, Check] = {
    "model_name": contract.model_name,
    "endpoint_name": endpoint,
    BASELINE_DATA: contract.key,
    "baseline_job_output_location": contract.location,
    "data_capture_location": contract.location,
    "monitoring_output_location": contract.location,
    "schedule_expression": cron,
    "monitor_max_runtime_seconds": contract.number(60, 86400),
    "instance_type": contract.instance_type,
    "instance_volume_size": contract.number(1, 1024),
}
OPTIONAL: dict[str, Check] = {
    "baseline_max_runtime_seconds": contract.number(60, 86400),
    "kms_key_arn": contract.kms_key,
}
TRUTH = {"monitor_ground_truth_input": contract.location}
ATTRIBUTES = {
    "monitor_inference_attribute": attribute_of,
    "monitor_probability_attribute": attribute_of,
    "probability_threshold_attribute": threshold,
}
INFERENCE = {"monitor_inference_attribute": attribute_of}
FEATURES = {
    "features_attribute": "is for captured JSON whose features have a path; leave it out: ours are rows"
}
COMMON = {
    "artifacts": (BASELINE_DATA,),
    "shipped": {CODE: archive},
    "numbers": ("monitor_max_runtime_seconds", "baseline_max_runtime_seconds", "instance_volume_size",
                "model_scores", "probability_threshold_attribute"),
    "must_be_there": must_be_captured,
}  # fmt: skip


def kind_of(analysis: Analysis, suffix: str, **more) -> PipelineType:
    def plan_it(request: Request, site: Site, artifacts: Mapping[str, str]) -> dict:
        return plan(analysis, request, site, artifacts)

    locations = LOCATIONS + tuple(TRUTH if TRUTH.keys() <= more.get("required", {}).keys() else ())
    return PipelineType(
        stack_suffix=suffix,
        plan=plan_it,
        locations=locations,
        **(
            COMMON
            | more
            | {
                "required": REQUIRED | more.get("required", {}),
                "optional": OPTIONAL | more.get("optional", {}),
            }
        ),
    )


TYPES = {
    "byom_data_quality_monitor": kind_of(DATA_QUALITY, "byomdataqualitymonitor"),
    "byom_model_quality_monitor": kind_of(
        MODEL_QUALITY,
        "byommodelqualitymonitor",
        required={
            "baseline_inference_attribute": attribute_of,
            "baseline_ground_truth_attribute": attribute_of,
            **TRUTH,
        },
        by_problem={
            "BinaryClassification": {"baseline_probability_attribute": attribute_of},
            "Regression": INFERENCE,
            "MulticlassClassification": INFERENCE,
        },
        optional={**ATTRIBUTES, "baseline_probability_attribute": attribute_of},
    ),
    "byom_model_bias_monitor": kind_of(
        BIAS,
        "byommodelbiasmonitor",
        required={**TRUTH, "bias_config": settings(*BIAS_KEYS)},
        by_problem={
            "BinaryClassification": {"model_predicted_label_config": settings(*PREDICTED_KEYS)},
            "Regression": INFERENCE,
            "MulticlassClassification": {
                "model_predicted_label_config": settings(*PREDICTED_KEYS), **INFERENCE
            },
        },
        optional={**ATTRIBUTES, "model_predicted_label_config": settings(*PREDICTED_KEYS)},
        objects=("bias_config", "model_predicted_label_config"),
        refused=FEATURES,
    ),
    "byom_model_explainability_monitor": kind_of(
        EXPLAINABILITY,
        "byommodelexplainabilitymonitor",
        required={"shap_config": settings(*SHAP_KEYS)},
        by_problem={
            "BinaryClassification": {}, "Regression": INFERENCE, "MulticlassClassification": INFERENCE
        },
        optional={**ATTRIBUTES, "model_scores": contract.number(0, 100)},
        objects=("shap_config",),
        refused=FEATURES,
    ),
}  # fmt: skip
