"""Endpoints: what is wished is written down here; the fleet makes it so (hosting/fleet.py)."""

from orchestrator.sandbox.aws.wire import honours
from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.hosting.fleet import Fleet
from orchestrator.sandbox.sagemaker import listing, tags
from orchestrator.sandbox.sagemaker.arns import arn, found, must_be_new
from orchestrator.sandbox.state import State, now

TABLE, KIND = "endpoints", "endpoint"


class Endpoints:
    def __init__(self, state: State, fleet: Fleet) -> None:
        self._state = state
        self._fleet = fleet

    @honours("EndpointName", "EndpointConfigName", "Tags")
    def create_endpoint(self, request: dict) -> dict:
        name, config = request["EndpointName"], request["EndpointConfigName"]
        found(self._state, "endpoint-config", config)
        with self._state.transaction():
            must_be_new(self._state, KIND, name)
            tags.keep(self._state, arn(KIND, name), request.get("Tags", []))
            self._state.delete("weights", endpoint=name)
            times = {"created": now(), "updated": now()}
            self._state.insert(TABLE, name=name, config=config, status="Creating", **times)
        self._fleet.tend(name)
        return {"EndpointArn": arn(KIND, name)}

    @honours("EndpointName", "EndpointConfigName")
    def update_endpoint(self, request: dict) -> dict:
        """Blue-green: the old process answers until the new one is ready, or for good."""
        name, config = request["EndpointName"], request["EndpointConfigName"]
        found(self._state, "endpoint-config", config)
        with self._state.transaction():
            row = self._in_service(name)
            if config != row["config"]:
                self._state.delete("weights", endpoint=name, config=config)
                changes = {"status": "Updating", "next_config": config, "updated": now()}
                self._state.update(TABLE, {"name": name}, **changes)
        self._fleet.tend(name)
        return {"EndpointArn": arn(KIND, name)}

    @honours(
        "EndpointName", "DesiredWeightsAndCapacities.VariantName",
        "DesiredWeightsAndCapacities.DesiredWeight",
        "DesiredWeightsAndCapacities.DesiredInstanceCount",
    )  # fmt: skip
    def update_endpoint_weights_and_capacities(self, request: dict) -> dict:
        """At once: there is one variant, which has all the traffic whatever it weighs."""
        name = request["EndpointName"]
        with self._state.transaction():
            row = self._in_service(name)
            config = found(self._state, "endpoint-config", row["config"])["request"]
            there = [variant["VariantName"] for variant in config["ProductionVariants"]]
            for wished in request["DesiredWeightsAndCapacities"]:
                if wished["VariantName"] not in there:
                    message = f'Could not find variant "{wished["VariantName"]}" of "{name}".'
                    raise AwsError("ValidationException", message)
                if wished.get("DesiredInstanceCount", 1) != 1:
                    count = wished["DesiredInstanceCount"]
                    message = f"The sandbox does not honour DesiredInstanceCount {count}, but 1."
                    raise AwsError("ValidationException", message)
                if "DesiredWeight" in wished:
                    which = {"endpoint": name, "config": row["config"]}
                    self._state.delete("weights", **which)
                    self._state.insert("weights", **which, weight=wished["DesiredWeight"])
            self._state.update(TABLE, {"name": name}, updated=now())
        return {"EndpointArn": arn(KIND, name)}

    def _in_service(self, name: str) -> dict:
        """The row of an endpoint that can be changed."""
        row = found(self._state, KIND, name)
        if row["status"] != "InService":
            message = f'Cannot update endpoint "{arn(KIND, name)}" in state {row["status"]}.'
            raise AwsError("ValidationException", message)
        return row

    @honours("EndpointName")
    def delete_endpoint(self, request: dict) -> dict:
        """Also while it is being created or updated: that is broken off."""
        with self._state.transaction():
            row = found(self._state, KIND, request["EndpointName"])
            where = {"name": row["name"]}
            self._state.update(TABLE, where, status="Deleting", updated=now())
            tags.forget(self._state, arn(KIND, row["name"]))
        self._fleet.tend(row["name"])
        return {}

    @honours("EndpointName")
    def describe_endpoint(self, request: dict) -> dict:
        row = found(self._state, KIND, request["EndpointName"])
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
        described["AsyncInferenceConfig"] = config["request"].get("AsyncInferenceConfig")
        changed = self._state.row("weights", endpoint=row["name"], config=row["config"])
        described["ProductionVariants"] = [
            {
                "VariantName": variant["VariantName"],
                "CurrentWeight": _weight(variant, changed),
                "DesiredWeight": _weight(variant, changed),
                "CurrentInstanceCount": variant.get("InitialInstanceCount", 1),
                "DesiredInstanceCount": variant.get("InitialInstanceCount", 1),
            }
            for variant in config["request"]["ProductionVariants"]
        ]
        return described

    @honours(*listing.FILTERS, "StatusEquals", "LastModifiedTimeAfter", "LastModifiedTimeBefore")
    def list_endpoints(self, request: dict) -> dict:
        return listing.page(self._state.rows(TABLE), request, _summary, "Endpoints", "Endpoint")


def _weight(variant: dict, changed: dict | None) -> float:
    return changed["weight"] if changed else variant.get("InitialVariantWeight", 1)


def _summary(row: dict) -> dict:
    return {
        "EndpointName": row["name"],
        "EndpointArn": arn(KIND, row["name"]),
        "EndpointStatus": row["status"],
        "CreationTime": row["created"],
        "LastModifiedTime": row["updated"],
    }
