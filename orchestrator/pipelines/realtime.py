"""Real-time pipelines: a model behind an endpoint, with everything captured.

byom_realtime_builtin   in one of SageMaker's framework images
byom_realtime_custom    in an image of one's own
"""

from collections.abc import Mapping

from botocore.exceptions import ClientError

from orchestrator import contract
from orchestrator.contract import Request
from orchestrator.environment import Site, client
from orchestrator.images import FRAMEWORK_VERSIONS, image_uri, sklearn_version_of
from orchestrator.pipelines.family import PipelineType, attribute

VARIANT = "AllTraffic"
ARTIFACT = "model_artifact_location"


def plan_builtin(request: Request, site: Site, artifacts: Mapping[str, str]) -> dict:
    values = request.values
    image = image_uri(values["model_framework"], values["model_framework_version"], site.region)
    return plan(request, site, artifacts[ARTIFACT], image)


def plan_custom(request: Request, site: Site, artifacts: Mapping[str, str]) -> dict:
    return plan(request, site, artifacts[ARTIFACT], request.values["custom_image_uri"])


def plan(request: Request, site: Site, model_data_url: str, image: str) -> dict:
    """A model, the configuration of its endpoint, the endpoint.

    A new artefact has a new `model_data_url`, which is what makes CloudFormation replace the model.
    """
    values, name = request.values, request.model_name
    kms = {"KmsKeyId": values["kms_key_arn"]} if values["kms_key_arn"] else {}
    endpoint_name = {"EndpointName": values["endpoint_name"]} if values["endpoint_name"] else {}
    container = {"Image": image, "ModelDataUrl": model_data_url}
    if sklearn_version_of(image):
        container["Environment"] = sklearn_environment()
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": f"{request.pipeline_type} pipeline of the model {name}",
        "Resources": {
            "Model": {
                "Type": "AWS::SageMaker::Model",
                "Properties": {
                    "ExecutionRoleArn": site.sagemaker_role_arn,
                    "PrimaryContainer": container,
                    # A model is somebody's code: it answers, and reaches nobody.
                    "EnableNetworkIsolation": True,
                    "Tags": [{"Key": "model_name", "Value": name}],
                },
            },
            "EndpointConfig": {
                "Type": "AWS::SageMaker::EndpointConfig",
                "Properties": {
                    "ProductionVariants": [
                        {
                            "VariantName": VARIANT,
                            "ModelName": attribute("Model", "ModelName"),
                            "InitialInstanceCount": 1,
                            "InitialVariantWeight": 1,
                            "InstanceType": values["inference_instance"],
                        }
                    ],
                    "DataCaptureConfig": {
                        "EnableCapture": True,
                        "InitialSamplingPercentage": 100,
                        "DestinationS3Uri": f"s3://{values['data_capture_location']}",
                        "CaptureOptions": [{"CaptureMode": "Output"}, {"CaptureMode": "Input"}],
                        # The original lists CSV alone, so that JSON is captured as base64.
                        "CaptureContentTypeHeader": {
                            "CsvContentTypes": ["text/csv"],
                            "JsonContentTypes": ["application/json"],
                        },
                        **kms,
                    },
                    "Tags": [{"Key": "endpoint-config-name", "Value": f"{name}-endpoint-config"}],
                    **kms,
                },
            },
            "Endpoint": {
                "Type": "AWS::SageMaker::Endpoint",
                "Properties": {
                    "EndpointConfigName": attribute("EndpointConfig", "EndpointConfigName"),
                    "Tags": [{"Key": "endpoint-name", "Value": f"{name}-endpoint"}],
                    **endpoint_name,
                },
            },
        },
        "Outputs": {
            # Clients of the original append "inference" to what stands under a key like this.
            "BYOMInferenceLambdaRestApiEndpoint": {
                "Value": f"{site.api_url}pipelines/{request.stack_name}/"
            },
            "SageMakerModelName": {"Value": attribute("Model", "ModelName")},
            "SageMakerEndpointConfigName": {
                "Value": attribute("EndpointConfig", "EndpointConfigName")
            },
            "SageMakerEndpointName": {"Value": attribute("Endpoint", "EndpointName")},
            "EndpointDataCaptureLocation": {"Value": f"s3://{values['data_capture_location']}/"},
        },
    }


def sklearn_environment() -> dict[str, str]:
    """What SageMaker's scikit-learn container must be told.

    It takes its module's name from SAGEMAKER_PROGRAM and nowhere else, and looks for the
    file where SAGEMAKER_SUBMIT_DIRECTORY says: with either missing it never answers a ping.
    One OpenMP thread per worker: with more, the workers fight over the cores and gradient
    boosting all but stops under load.
    """
    return {
        "SAGEMAKER_PROGRAM": "inference.py",
        "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code",
        "OMP_NUM_THREADS": "1",
    }


def check_framework(values: dict[str, str]) -> None:
    versions = FRAMEWORK_VERSIONS[values["model_framework"]]
    contract.one_of(versions)("model_framework_version", values["model_framework_version"])


def endpoint_is_lost(outputs: dict[str, str]) -> bool:
    """SageMaker has given the endpoint up, or somebody has deleted it: only a new one helps."""
    name = outputs.get("SageMakerEndpointName")
    if not name:
        return False
    endpoint = _endpoint(name)
    return endpoint is None or endpoint["EndpointStatus"] == "Failed"


def difference(outputs: dict[str, str], template: dict) -> str | None:
    """What the running endpoint has otherwise than the plan asked, in words; None if nothing.

    CloudFormation has been seen to report success while SageMaker had rolled back, and
    updates to drop data capture; so the running endpoint itself is asked.
    """
    name = outputs["SageMakerEndpointName"]
    endpoint = _endpoint(name)
    if endpoint is None:
        return f"The endpoint {name} was deleted. Provision the pipeline again."
    if endpoint["EndpointStatus"] == "Failed":
        return f"The endpoint failed: {endpoint.get('FailureReason', 'no reason was given')}"
    running = endpoint["EndpointConfigName"]
    asked = outputs["SageMakerEndpointConfigName"]
    if running != asked:
        return f"The endpoint runs the configuration {running}, not {asked}."
    sagemaker, planned = client("sagemaker"), template["Resources"]
    config = sagemaker.describe_endpoint_config(EndpointConfigName=running)
    captured = config.get("DataCaptureConfig", {})
    for key, value in planned["EndpointConfig"]["Properties"]["DataCaptureConfig"].items():
        if captured.get(key) != value:
            return f"DataCaptureConfig.{key} is {captured.get(key)!r}, not {value!r}."
    model_name = config["ProductionVariants"][0]["ModelName"]
    model = sagemaker.describe_model(ModelName=model_name)
    served = model["PrimaryContainer"]["ModelDataUrl"]
    wanted = planned["Model"]["Properties"]["PrimaryContainer"]["ModelDataUrl"]
    return None if served == wanted else f"The endpoint serves {served}, not {wanted}."


def _endpoint(name: str) -> dict | None:
    try:
        return client("sagemaker").describe_endpoint(EndpointName=name)
    except ClientError as error:
        if "Could not find" in error.response["Error"]["Message"]:
            return None
        raise


COMMON = {
    "optional": {"endpoint_name": contract.resource_name, "kms_key_arn": contract.kms_key},
    "refused": {
        "model_package_name": "needs a model registry, which is not supported; "
        "send model_artifact_location alone"
    },
    "artifacts": (ARTIFACT,),
    "locations": ("data_capture_location",),
    "beyond_repair": endpoint_is_lost,
    "difference": difference,
}
TYPES = {
    "byom_realtime_builtin": PipelineType(
        stack_suffix="byompipelinerealtimebuiltin",
        required={
            "model_name": contract.model_name,
            "inference_instance": contract.instance_type,
            "model_framework": contract.one_of(tuple(FRAMEWORK_VERSIONS)),
            "model_framework_version": contract.anything,  # depends on the framework
            ARTIFACT: contract.artifact,
            "data_capture_location": contract.location,
        },
        check_together=check_framework,
        plan=plan_builtin,
        **COMMON,
    ),
    "byom_realtime_custom": PipelineType(
        stack_suffix="byompipelinerealtimecustom",
        required={
            "model_name": contract.model_name,
            "inference_instance": contract.instance_type,
            "custom_image_uri": contract.image,
            ARTIFACT: contract.artifact,
            "data_capture_location": contract.location,
        },
        plan=plan_custom,
        **COMMON,
    ),
}
