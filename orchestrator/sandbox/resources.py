"""Making a plan's resources real on a laptop: SageMaker's models, configurations, endpoints.

One class per CloudFormation resource type, each with `create`, `update` where SageMaker can
change the thing in place, and `delete`. All of them raise ResourceFailed with a reason a
user can act on.
"""

import shutil
from pathlib import Path

from nanio.errors import S3Error
from nanio.storage.filesystem import FilesystemStorage
from nanio.storage.paths import object_path

from orchestrator.sandbox import s3
from orchestrator.sandbox.archive import BadArchive, unpack
from orchestrator.sandbox.errors import ResourceFailed
from orchestrator.sandbox.fleet import Fleet
from orchestrator.sandbox.state import State, now


class Model:
    """A model is its archive, unpacked in the state folder."""

    type = "AWS::SageMaker::Model"
    name_property = "ModelName"

    def __init__(self, folder: Path, storage: FilesystemStorage) -> None:
        self._folder = folder
        self._s3 = storage

    def create(self, name: str, properties: dict) -> None:
        url = properties["PrimaryContainer"]["ModelDataUrl"]
        bucket, key = s3.split_url(url)
        try:
            self._s3.head_object(bucket, key)
        except S3Error:
            raise ResourceFailed(f"Could not find model data at {url}.") from None
        target = self._folder / "models" / name
        try:
            unpack(object_path(self._s3.data_dir, bucket, key), target)
        except BadArchive as error:
            shutil.rmtree(target, ignore_errors=True)
            raise ResourceFailed(f"The model data at {url} cannot be unpacked: {error}.") from None

    def delete(self, name: str) -> None:
        shutil.rmtree(self._folder / "models" / name, ignore_errors=True)


class EndpointConfig:
    """A configuration is its row in the state; what it names must exist."""

    type = "AWS::SageMaker::EndpointConfig"
    name_property = "EndpointConfigName"

    def __init__(self, state: State, storage: FilesystemStorage) -> None:
        self._state = state
        self._s3 = storage

    def create(self, name: str, properties: dict) -> None:
        model = properties["ProductionVariants"][0]["ModelName"]
        if self._state.row("resources", type=Model.type, name=model) is None:
            raise ResourceFailed(f'Could not find model "{model}".')
        capture = properties.get("DataCaptureConfig")
        if capture:
            bucket, _ = s3.split_url(capture["DestinationS3Uri"])
            try:
                self._s3.head_bucket(bucket)
            except S3Error:
                raise ResourceFailed(f"The capture bucket {bucket} does not exist.") from None

    def delete(self, name: str) -> None:
        """Nothing but the row, which the stack removes."""


class Endpoint:
    """An endpoint is a process that answers."""

    type = "AWS::SageMaker::Endpoint"
    name_property = "EndpointName"

    def __init__(self, state: State, fleet: Fleet) -> None:
        self._state = state
        self._fleet = fleet

    def create(self, name: str, properties: dict) -> None:
        config = properties["EndpointConfigName"]
        self._state.insert(
            "endpoints", name=name, config=config, status="Creating", created=now(), updated=now()
        )
        try:
            instance = self._fleet.launch(name, config)
        except ResourceFailed as error:
            self._fleet.give_up(name, error.message)
            raise
        self._state.update("endpoints", {"name": name}, status="InService", updated=now())
        self._fleet.turn_traffic(name, instance)

    def update(self, name: str, properties: dict) -> None:
        """Blue-green: the old process answers until the new one is ready, or for good."""
        config, where = properties["EndpointConfigName"], {"name": name}
        before = self._state.row("endpoints", name=name)
        if before["config"] == config and before["status"] == "InService":
            return
        self._state.update("endpoints", where, status="Updating", updated=now())
        try:
            instance = self._fleet.launch(name, config)
        except ResourceFailed as error:
            self._state.update(
                "endpoints", where, status=before["status"], reason=error.message, updated=now()
            )
            raise
        self._state.update(
            "endpoints", where, status="InService", config=config, reason=None, updated=now()
        )
        self._fleet.turn_traffic(name, instance)

    def delete(self, name: str) -> None:
        self._state.update("endpoints", {"name": name}, status="Deleting", updated=now())
        self._fleet.remove(name)
        self._state.delete("endpoints", name=name)
