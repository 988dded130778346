"""The model of a pipeline: its keys, its image, the resource that it is.

A `…_builtin` type names one of SageMaker's framework images, a `…_custom` type an image of one's own.
"""

from collections.abc import Mapping

from orchestrator import contract
from orchestrator.contract import Check, Request
from orchestrator.environment import Site
from orchestrator.images import FRAMEWORK_VERSIONS, image_uri, sklearn_version_of

ARTIFACT = "model_artifact_location"

# In the order in which the original asks for them.
BUILTIN: Mapping[str, Check] = {
    "model_name": contract.model_name,
    "inference_instance": contract.instance_type,
    "model_framework": contract.one_of(tuple(FRAMEWORK_VERSIONS)),
    "model_framework_version": contract.anything,  # depends on the framework
    ARTIFACT: contract.artifact,
}
CUSTOM: Mapping[str, Check] = {
    "model_name": contract.model_name,
    "inference_instance": contract.instance_type,
    "custom_image_uri": contract.image,
    ARTIFACT: contract.artifact,
}
REFUSED = {
    "model_package_name": "needs a model registry, which is not supported; "
    "send model_artifact_location alone"
}


def resource(request: Request, site: Site, artifacts: Mapping[str, str]) -> dict:
    """The AWS::SageMaker::Model of a pipeline.

    A new artefact has a new address, which is what makes CloudFormation replace the model.
    """
    image = _image(request.values, site)
    container = {"Image": image, "ModelDataUrl": artifacts[ARTIFACT]}
    if sklearn_version_of(image):
        container["Environment"] = sklearn_environment()
    return {
        "Type": "AWS::SageMaker::Model",
        "Properties": {
            "ExecutionRoleArn": site.sagemaker_role_arn,
            "PrimaryContainer": container,
            # A model is somebody's code: it answers, and reaches nobody.
            "EnableNetworkIsolation": True,
            "Tags": [{"Key": "model_name", "Value": request.model_name}],
        },
    }


def _image(values: dict[str, str], site: Site) -> str:
    if "custom_image_uri" in values:
        return values["custom_image_uri"]
    return image_uri(values["model_framework"], values["model_framework_version"], site.region)


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
