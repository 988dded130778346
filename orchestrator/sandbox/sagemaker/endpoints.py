"""Endpoints: what is wished is written down here; the fleet makes it so (hosting/fleet.py)."""

from orchestrator.sandbox.aws.wire import honours
from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.hosting.fleet import Fleet
from orchestrator.sandbox.sagemaker import listing
from orchestrator.sandbox.sagemaker.arns import arn, found, must_be_new
from orchestrator.sandbox.state import State, now

TABLE, KIND, WORDS = "endpoints", "endpoint", "endpoint"


class Endpoints:
    def __init__(self, state: State, fleet: Fleet) -> None:
        self._state = state
        self._fleet = fleet

    @honours("EndpointName", "EndpointConfigName", "Tags")
    def create_endpoint(self, request: dict) -> dict:
        name, config = request["EndpointName"], request["EndpointConfigName"]
        self._require_config(config)
        with self._state.transaction():
            must_be_new(self._state, TABLE, KIND, WORDS, name)
            times = {"created": now(), "updated": now()}
            self._state.insert(TABLE, name=name, config=config, status="Creating", **times)
        self._fleet.tend(name)
        return {"EndpointArn": arn(KIND, name)}

    @honours("EndpointName", "EndpointConfigName")
    def update_endpoint(self, request: dict) -> dict:
        """Blue-green: the old process answers until the new one is ready, or for good."""
        name, config = request["EndpointName"], request["EndpointConfigName"]
        self._require_config(config)
        with self._state.transaction():
            row = found(self._state, TABLE, KIND, WORDS, name)
            if row["status"] != "InService":
                message = f'Cannot update endpoint "{arn(KIND, name)}" in state {row["status"]}.'
                raise AwsError("ValidationException", message)
            if config != row["config"]:
                changes = {"status": "Updating", "next_config": config, "updated": now()}
                self._state.update(TABLE, {"name": name}, **changes)
        self._fleet.tend(name)
        return {"EndpointArn": arn(KIND, name)}

    @honours("EndpointName")
    def delete_endpoint(self, request: dict) -> dict:
        """Also while it is being created or updated: that is broken off."""
        with self._state.transaction():
            row = found(self._state, TABLE, KIND, WORDS, request["EndpointName"])
            where = {"name": row["name"]}
            self._state.update(TABLE, where, status="Deleting", updated=now())
        self._fleet.tend(row["name"])
        return {}

    @honours("EndpointName")
    def describe_endpoint(self, request: dict) -> dict:
        row = found(self._state, TABLE, KIND, WORDS, request["EndpointName"])
        described = _summary(row) | {
            "EndpointConfigName": row["config"],
            "FailureReason": row["reason"],
        }
        config = self._state.row("endpoint_configs", name=row["config"])
        if config is None:
            return described
        capture = config["request"].get("DataCaptureConfig")
        if capture:
            enabled = capture.get("EnableCapture", False)
            described["DataCaptureConfig"] = {
                "EnableCapture": enabled,
                "CaptureStatus": "Started" if enabled else "Stopped",
                "CurrentSamplingPercentage": capture["InitialSamplingPercentage"],
                "DestinationS3Uri": capture["DestinationS3Uri"],
                "KmsKeyId": capture.get("KmsKeyId", ""),
            }
        described["ProductionVariants"] = [
            {
                "VariantName": variant["VariantName"],
                "CurrentWeight": variant.get("InitialVariantWeight", 1),
                "DesiredWeight": variant.get("InitialVariantWeight", 1),
                "CurrentInstanceCount": variant.get("InitialInstanceCount", 1),
                "DesiredInstanceCount": variant.get("InitialInstanceCount", 1),
            }
            for variant in config["request"]["ProductionVariants"]
        ]
        return described

    @honours(*listing.FILTERS, "StatusEquals", "LastModifiedTimeAfter", "LastModifiedTimeBefore")
    def list_endpoints(self, request: dict) -> dict:
        return listing.page(self._state.rows(TABLE), request, _summary, "Endpoints", "Endpoint")

    def _require_config(self, name: str) -> None:
        found(self._state, "endpoint_configs", "endpoint-config", "endpoint configuration", name)


def _summary(row: dict) -> dict:
    return {
        "EndpointName": row["name"],
        "EndpointArn": arn(KIND, row["name"]),
        "EndpointStatus": row["status"],
        "CreationTime": row["created"],
        "LastModifiedTime": row["updated"],
    }
