"""Real-time pipelines: a model behind an endpoint, with everything captured.

byom_realtime_builtin   in one of SageMaker's framework images
byom_realtime_custom    in an image of one's own
"""

from collections.abc import Mapping

from botocore.exceptions import ClientError

from orchestrator import contract
from orchestrator.contract import Request
from orchestrator.environment import Site, client
from orchestrator.pipelines import models
from orchestrator.pipelines.family import PipelineType, attribute

VARIANT = "AllTraffic"


def plan(request: Request, site: Site, artifacts: Mapping[str, str]) -> dict:
    """A model, the configuration of its endpoint, the endpoint."""
    values, name = request.values, request.model_name
    kms = {"KmsKeyId": values["kms_key_arn"]} if values["kms_key_arn"] else {}
    endpoint_name = {"EndpointName": values["endpoint_name"]} if values["endpoint_name"] else {}
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": f"{request.pipeline_type} pipeline of the model {name}",
        "Resources": {
            "Model": models.resource(request, site, artifacts),
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
    "plan": plan,
    "optional": {"endpoint_name": contract.resource_name, "kms_key_arn": contract.kms_key},
    "refused": models.REFUSED,
    "artifacts": (models.ARTIFACT,),
    "locations": ("data_capture_location",),
    "beyond_repair": endpoint_is_lost,
    "difference": difference,
}
CAPTURE = {"data_capture_location": contract.location}
TYPES = {
    "byom_realtime_builtin": PipelineType(
        stack_suffix="byompipelinerealtimebuiltin",
        required={**models.BUILTIN, **CAPTURE},
        check_together=models.check_framework,
        **COMMON,
    ),
    "byom_realtime_custom": PipelineType(
        stack_suffix="byompipelinerealtimecustom",
        required={**models.CUSTOM, **CAPTURE},
        **COMMON,
    ),
}
