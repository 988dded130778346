"""Endpoint configurations: which model an endpoint serves, and what of its traffic is captured."""

from orchestrator.sandbox.aws.wire import honours
from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.sagemaker import listing, tags
from orchestrator.sandbox.sagemaker.arns import arn, found, must_be_new
from orchestrator.sandbox.sagemaker.objects import must_have_bucket
from orchestrator.sandbox.state import State, now

TABLE, KIND = "endpoint_configs", "endpoint-config"


class EndpointConfigs:
    def __init__(self, state: State) -> None:
        self._state = state

    @honours(
        "EndpointConfigName", "Tags", "KmsKeyId", "DataCaptureConfig",
        "ProductionVariants.VariantName", "ProductionVariants.ModelName",
        "ProductionVariants.InitialInstanceCount", "ProductionVariants.InitialVariantWeight",
        "ProductionVariants.InstanceType", "AsyncInferenceConfig.OutputConfig.S3OutputPath",
        "AsyncInferenceConfig.OutputConfig.S3FailurePath",
        "AsyncInferenceConfig.ClientConfig.MaxConcurrentInvocationsPerInstance",
    )  # fmt: skip
    def create_endpoint_config(self, request: dict) -> dict:
        name, variants = request["EndpointConfigName"], request["ProductionVariants"]
        _check_size(variants)
        found(self._state, "model", variants[0].get("ModelName", ""))
        if "DataCaptureConfig" in request:
            must_have_bucket(request["DataCaptureConfig"]["DestinationS3Uri"], "capture")
        if "AsyncInferenceConfig" in request:
            _check_outputs(request["AsyncInferenceConfig"]["OutputConfig"])
        with self._state.transaction():
            must_be_new(self._state, KIND, name)
            tags.keep(self._state, arn(KIND, name), request.get("Tags", []))
            self._state.insert(TABLE, name=name, request=request, created=now())
        return {"EndpointConfigArn": arn(KIND, name)}

    @honours("EndpointConfigName")
    def describe_endpoint_config(self, request: dict) -> dict:
        row = found(self._state, KIND, request["EndpointConfigName"])
        kept = ("ProductionVariants", "DataCaptureConfig", "KmsKeyId", "AsyncInferenceConfig")
        return _summary(row) | {key: row["request"][key] for key in kept if key in row["request"]}

    @honours(*listing.FILTERS)
    def list_endpoint_configs(self, request: dict) -> dict:
        rows = self._state.rows(TABLE)
        return listing.page(rows, request, _summary, "EndpointConfigs", "EndpointConfig")

    @honours("EndpointConfigName")
    def delete_endpoint_config(self, request: dict) -> dict:
        row = found(self._state, KIND, request["EndpointConfigName"])
        with self._state.transaction():
            self._state.delete(TABLE, name=row["name"])
            tags.forget(self._state, arn(KIND, row["name"]))
        return {}


def _check_size(variants: list[dict]) -> None:
    wrong = None
    if len(variants) != 1:
        wrong = f"{len(variants)} ProductionVariants of CreateEndpointConfig, but one"
    elif variants[0].get("InitialInstanceCount", 1) != 1:
        wrong = f"InitialInstanceCount {variants[0]['InitialInstanceCount']}, but 1"
    if wrong:
        raise AwsError("ValidationException", f"The sandbox does not honour {wrong}.")


def _check_outputs(outputs: dict) -> None:
    """Where answers are to go, and failures where that is said."""
    if "S3OutputPath" not in outputs:
        message = "The sandbox needs S3OutputPath in the OutputConfig of AsyncInferenceConfig."
        raise AwsError("ValidationException", message)
    for member, url in outputs.items():
        must_have_bucket(url, member)


def _summary(row: dict) -> dict:
    return {
        "EndpointConfigName": row["name"],
        "EndpointConfigArn": arn(KIND, row["name"]),
        "CreationTime": row["created"],
    }
