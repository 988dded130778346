"""Models: an archive in S3 and the image that serves it."""

from orchestrator.sandbox.aws.wire import honours
from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.hosting import models
from orchestrator.sandbox.places import Places
from orchestrator.sandbox.sagemaker import listing, tags
from orchestrator.sandbox.sagemaker.arns import arn, found, must_be_new
from orchestrator.sandbox.sagemaker.objects import must_have_object
from orchestrator.sandbox.state import State, now

TABLE, KIND = "models", "model"


class Models:
    def __init__(self, state: State, places: Places) -> None:
        self._state = state
        self._places = places

    @honours(
        "ModelName", "ExecutionRoleArn", "Tags", "PrimaryContainer.Image",
        "PrimaryContainer.ModelDataUrl", "PrimaryContainer.Environment", "EnableNetworkIsolation",
    )  # fmt: skip
    def create_model(self, request: dict) -> dict:
        name = request["ModelName"]
        container = request.get("PrimaryContainer", {})
        for key in ("Image", "ModelDataUrl"):
            if key not in container:
                message = f"The sandbox runs models that have a PrimaryContainer with {key}."
                raise AwsError("ValidationException", message)
        must_have_object(container["ModelDataUrl"], "model data")
        with self._state.transaction():
            must_be_new(self._state, KIND, name)
            tags.keep(self._state, arn(KIND, name), request.get("Tags", []))
            self._state.insert(TABLE, name=name, request=request, created=now())
        return {"ModelArn": arn(KIND, name)}

    @honours("ModelName")
    def describe_model(self, request: dict) -> dict:
        row = found(self._state, KIND, request["ModelName"])
        kept = ("PrimaryContainer", "ExecutionRoleArn", "EnableNetworkIsolation")
        return _summary(row) | {key: row["request"][key] for key in kept if key in row["request"]}

    @honours(*listing.FILTERS)
    def list_models(self, request: dict) -> dict:
        return listing.page(self._state.rows(TABLE), request, _summary, "Models", "Model")

    @honours("ModelName")
    def delete_model(self, request: dict) -> dict:
        row = found(self._state, KIND, request["ModelName"])
        with self._state.transaction():
            self._state.delete(TABLE, name=row["name"])
            tags.forget(self._state, arn(KIND, row["name"]))
        models.remove(self._places, row["name"])
        return {}


def _summary(row: dict) -> dict:
    return {
        "ModelName": row["name"],
        "ModelArn": arn(KIND, row["name"]),
        "CreationTime": row["created"],
    }
