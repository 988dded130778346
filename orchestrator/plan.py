"""From a valid request to the resources it asks for, in CloudFormation's own vocabulary.

A plan is a complete template with every value resolved. AWS CloudFormation takes it as
the template of a stack; the sandbox reads the same template and makes each resource real.
`scripts/provision.py --dry-run` prints it.
"""

from dataclasses import dataclass

from orchestrator.contract import Request
from orchestrator.images import image_uri, sklearn_version_of

VARIANT = "AllTraffic"


@dataclass(frozen=True)
class Site:
    """Where plans are carried out: the names that differ from one deployment to the next."""

    region: str
    assets_bucket: str
    sagemaker_role_arn: str
    api_url: str  # of the orchestrator, ending in a slash


def plan(request: Request, site: Site, model_data_url: str) -> dict:
    """The CloudFormation template of a pipeline.

    `model_data_url` is the uploaded artefact's immutable copy, `s3://…/model.tar.gz`: a new
    artefact has a new address, which is what makes CloudFormation replace the model.
    """
    return PLANNERS[request.pipeline_type](request, site, model_data_url)


def _realtime_builtin(request: Request, site: Site, model_data_url: str) -> dict:
    values = request.values
    image = image_uri(values["model_framework"], values["model_framework_version"], site.region)
    return _realtime(request, site, model_data_url, image)


def _realtime_custom(request: Request, site: Site, model_data_url: str) -> dict:
    return _realtime(request, site, model_data_url, request.values["custom_image_uri"])


def _realtime(request: Request, site: Site, model_data_url: str, image: str) -> dict:
    """A model, the configuration of its endpoint with everything captured, the endpoint."""
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
                    "Tags": [{"Key": "model_name", "Value": name}],
                },
            },
            "EndpointConfig": {
                "Type": "AWS::SageMaker::EndpointConfig",
                "Properties": {
                    "ProductionVariants": [
                        {
                            "VariantName": VARIANT,
                            "ModelName": _attribute("Model", "ModelName"),
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
                    "EndpointConfigName": _attribute("EndpointConfig", "EndpointConfigName"),
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
            "SageMakerModelName": {"Value": _attribute("Model", "ModelName")},
            "SageMakerEndpointConfigName": {
                "Value": _attribute("EndpointConfig", "EndpointConfigName")
            },
            "SageMakerEndpointName": {"Value": _attribute("Endpoint", "EndpointName")},
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


def _attribute(resource: str, name: str) -> dict:
    return {"Fn::GetAtt": [resource, name]}


PLANNERS = {
    "byom_realtime_builtin": _realtime_builtin,
    "byom_realtime_custom": _realtime_custom,
}
