"""Batch pipelines: a model over all the objects below a prefix, once for every request.

byom_batch_builtin   in one of SageMaker's framework images
byom_batch_custom    in an image of one's own

The job's parameters are the original's: a line is a record, as many of them in one request as there is
room for. What the original has not: objects that are files, each a record as a whole. Source: SageMaker
API reference, CreateTransformJob.
"""

from collections.abc import Mapping

from orchestrator import contract
from orchestrator.contract import BadRequest, Request
from orchestrator.environment import Site
from orchestrator.pipelines import models
from orchestrator.pipelines.family import PipelineType, attribute

SOURCE, RESULT = "batch_inference_data", "batch_job_output_location"
CONTENT_TYPE = "batch_content_type"
CSV, FILE = "text/csv", "application/octet-stream"
# The handler's role may start jobs with this in their names, and no others.
JOB = "-batch-transform"
LONGEST = 34  # characters of the model's name, so that a job's 63 hold JOB whatever its model


def plan(request: Request, site: Site, artifacts: Mapping[str, str]) -> dict:
    """A model, and the job over the objects."""
    values, name = request.values, request.model_name
    kms = values["kms_key_arn"]
    content_type = values[CONTENT_TYPE] or CSV
    record = "Line" if content_type == CSV else "None"
    output_key = {"KmsKeyId": kms} if kms else {}
    volume_key = {"VolumeKmsKeyId": kms} if kms else {}
    job = {
        "ModelName": attribute("Model", "ModelName"),
        "TransformInput": {
            "DataSource": {
                "S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{values[SOURCE]}"}
            },
            "ContentType": content_type,
            "SplitType": record,
            "CompressionType": "None",
        },
        "TransformOutput": {
            "S3OutputPath": f"s3://{values[RESULT]}",
            "Accept": CSV,
            "AssembleWith": record,
            **output_key,
        },
        "TransformResources": {
            "InstanceType": values["inference_instance"],
            "InstanceCount": 1,
            **volume_key,
        },
    }
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": f"{request.pipeline_type} pipeline of the model {name}",
        "Resources": {
            "Model": models.resource(request, site, artifacts),
            "Job": {
                "Type": "Custom::TransformJob",
                "Properties": {
                    "ServiceToken": site.handler_arn,
                    "Name": f"{name.lower()[:LONGEST].rstrip('-')}{JOB}",
                    "Request": job,
                },
            },
        },
        "Outputs": {
            "SageMakerModelName": {"Value": attribute("Model", "ModelName")},
            "BatchTransformJobName": {"Value": {"Ref": "Job"}},
            "BatchTransformOutputLocation": {"Value": f"s3://{values[RESULT]}/"},
        },
    }


def objects(key: str, value: str) -> str:
    """`bucket/key` of an object, or `bucket/prefix` of several; a slash at its end counts."""
    cleaned = contract.location(key, value)
    if "/" not in cleaned:
        raise BadRequest(f"Bad request. {key} must be bucket/key or bucket/prefix, not {value!r}")
    return cleaned + "/" * value.endswith("/")


def must_be_apart(values: dict[str, str]) -> None:
    """The job would take its own output for input the next time."""
    source, result = values[SOURCE].rstrip("/"), values[RESULT]
    if f"{result}/".startswith(f"{source}/") or f"{source}/".startswith(f"{result}/"):
        raise BadRequest(
            f"Bad request. {RESULT} and {SOURCE} must not lie in one another: {result}, {source}"
        )


def check_builtin(values: dict[str, str]) -> None:
    models.check_framework(values)
    must_be_apart(values)


COMMON = {
    "plan": plan,
    "optional": {CONTENT_TYPE: contract.one_of((CSV, FILE)), "kms_key_arn": contract.kms_key},
    "refused": models.REFUSED,
    "artifacts": (models.ARTIFACT,),
    "locations": (SOURCE, RESULT),
    "sources": (SOURCE,),
    # The objects may have changed under their names, and who asks again wants it done again.
    "repeats": True,
}
PLACES = {SOURCE: objects, RESULT: contract.location}
TYPES = {
    "byom_batch_builtin": PipelineType(
        stack_suffix="byompipelinebatchbuiltin",
        required={**models.BUILTIN, **PLACES},
        check_together=check_builtin,
        **COMMON,
    ),
    "byom_batch_custom": PipelineType(
        stack_suffix="byompipelinebatchcustom",
        required={**models.CUSTOM, **PLACES},
        check_together=must_be_apart,
        **COMMON,
    ),
}
