"""Endpoint configurations: which model an endpoint serves, and what of its traffic is captured."""

from botocore.exceptions import ClientError

from orchestrator.environment import client
from orchestrator.sandbox.aws.wire import honours
from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.hosting.publisher import split_url
from orchestrator.sandbox.sagemaker import listing
from orchestrator.sandbox.sagemaker.arns import arn, found, must_be_new
from orchestrator.sandbox.state import State, now

TABLE, KIND, WORDS = "endpoint_configs", "endpoint-config", "endpoint configuration"


class EndpointConfigs:
    def __init__(self, state: State) -> None:
        self._state = state

    @honours(
        "EndpointConfigName", "Tags", "KmsKeyId", "DataCaptureConfig",
        "ProductionVariants.VariantName", "ProductionVariants.ModelName",
        "ProductionVariants.InitialInstanceCount", "ProductionVariants.InitialVariantWeight",
        "ProductionVariants.InstanceType",
    )  # fmt: skip
    def create_endpoint_config(self, request: dict) -> dict:
        name, variants = request["EndpointConfigName"], request["ProductionVariants"]
        if len(variants) != 1 or variants[0].get("InitialInstanceCount", 1) != 1:
            message = "The sandbox runs one variant on one instance."
            raise AwsError("ValidationException", message)
        model = variants[0].get("ModelName", "")
        if self._state.row("models", name=model) is None:
            message = f'Could not find model "{arn("model", model)}".'
            raise AwsError("ValidationException", message)
        capture = request.get("DataCaptureConfig")
        if capture:
            bucket, _ = split_url(capture["DestinationS3Uri"])
            try:
                client("s3").head_bucket(Bucket=bucket)
            except ClientError:
                message = f"The capture bucket {bucket} does not exist."
                raise AwsError("ValidationException", message) from None
        with self._state.transaction():
            must_be_new(self._state, TABLE, KIND, WORDS, name)
            self._state.insert(TABLE, name=name, request=request, created=now())
        return {"EndpointConfigArn": arn(KIND, name)}

    @honours("EndpointConfigName")
    def describe_endpoint_config(self, request: dict) -> dict:
        row = found(self._state, TABLE, KIND, WORDS, request["EndpointConfigName"])
        kept = ("ProductionVariants", "DataCaptureConfig", "KmsKeyId")
        return _summary(row) | {key: row["request"][key] for key in kept if key in row["request"]}

    @honours(*listing.FILTERS)
    def list_endpoint_configs(self, request: dict) -> dict:
        rows = self._state.rows(TABLE)
        return listing.page(rows, request, _summary, "EndpointConfigs", "EndpointConfig")

    @honours("EndpointConfigName")
    def delete_endpoint_config(self, request: dict) -> dict:
        row = found(self._state, TABLE, KIND, WORDS, request["EndpointConfigName"])
        self._state.delete(TABLE, name=row["name"])
        return {}


def _summary(row: dict) -> dict:
    return {
        "EndpointConfigName": row["name"],
        "EndpointConfigArn": arn(KIND, row["name"]),
        "CreationTime": row["created"],
    }
