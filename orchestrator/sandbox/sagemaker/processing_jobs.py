"""Processing jobs: a container's command over files of S3."""

from collections.abc import Callable

from orchestrator.sandbox.aws.wire import honours
from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.sagemaker.jobs import FILTERS, Jobs
from orchestrator.sandbox.sagemaker.objects import must_have_bucket
from orchestrator.sandbox.state import State

KEPT = (
    "ProcessingInputs", "ProcessingOutputConfig", "ProcessingResources", "StoppingCondition",
    "AppSpecification", "Environment", "RoleArn",
)  # fmt: skip
# What the sandbox can do, where SageMaker offers a choice.
ONLY = {
    "S3DataType": "S3Prefix", "S3InputMode": "File", "S3DataDistributionType": "FullyReplicated",
    "S3UploadMode": "EndOfJob",
}  # fmt: skip


class ProcessingJobs:
    def __init__(self, state: State, wake: Callable[[], None]) -> None:
        self._jobs = Jobs(state, "processing-job", "ProcessingJob", wake)

    @honours(
        "ProcessingJobName", "RoleArn", "Environment", "Tags",
        "StoppingCondition.MaxRuntimeInSeconds", "AppSpecification.ImageUri",
        "AppSpecification.ContainerEntrypoint", "AppSpecification.ContainerArguments",
        "ProcessingInputs.InputName", "ProcessingInputs.S3Input.S3Uri",
        "ProcessingInputs.S3Input.LocalPath", "ProcessingInputs.S3Input.S3DataType",
        "ProcessingInputs.S3Input.S3InputMode", "ProcessingInputs.S3Input.S3DataDistributionType",
        "ProcessingInputs.S3Input.S3CompressionType", "ProcessingOutputConfig.KmsKeyId",
        "ProcessingOutputConfig.Outputs.OutputName",
        "ProcessingOutputConfig.Outputs.S3Output.S3Uri",
        "ProcessingOutputConfig.Outputs.S3Output.LocalPath",
        "ProcessingOutputConfig.Outputs.S3Output.S3UploadMode",
        "ProcessingResources.ClusterConfig.InstanceCount",
        "ProcessingResources.ClusterConfig.InstanceType",
        "ProcessingResources.ClusterConfig.VolumeSizeInGB",
        "ProcessingResources.ClusterConfig.VolumeKmsKeyId",
    )  # fmt: skip
    def create_processing_job(self, request: dict) -> dict:
        _check(request)
        for source in request.get("ProcessingInputs", []):
            must_have_bucket(source["S3Input"]["S3Uri"], "input")
        for output in request.get("ProcessingOutputConfig", {}).get("Outputs", []):
            must_have_bucket(output["S3Output"]["S3Uri"], "output")
        return self._jobs.create(request)

    @honours("ProcessingJobName")
    def describe_processing_job(self, request: dict) -> dict:
        row = self._jobs.find(request["ProcessingJobName"])
        more = {"ProcessingStartTime": row["started"], "ExitMessage": row["message"]}
        kept = {key: row["request"][key] for key in KEPT if key in row["request"]}
        return (
            self._jobs.summary(row)
            | kept
            | {key: value for key, value in more.items() if value is not None}
        )

    @honours("ProcessingJobName")
    def stop_processing_job(self, request: dict) -> dict:
        return self._jobs.stop(request["ProcessingJobName"])

    @honours(*FILTERS)
    def list_processing_jobs(self, request: dict) -> dict:
        return self._jobs.listed(request)


def _check(request: dict) -> None:
    """AwsError for what is not done here."""
    inputs, outputs = (
        request.get("ProcessingInputs", []),
        request.get("ProcessingOutputConfig", {}).get("Outputs", []),
    )
    names = [item["InputName"] for item in inputs] + [item["OutputName"] for item in outputs]
    for member, items in (("S3Input", inputs), ("S3Output", outputs)):
        for item in items:
            if member not in item:
                raise AwsError("ValidationException", f"The sandbox takes {member} alone.")
            for key, only in ONLY.items():
                if item[member].get(key, only) != only:
                    wrong = f"The sandbox takes {key} {only} alone, not {item[member][key]}."
                    raise AwsError("ValidationException", wrong)
            if "LocalPath" not in item[member]:
                raise AwsError("ValidationException", f"{member} needs a LocalPath.")
    if len(set(names)) != len(names):
        raise AwsError("ValidationException", "Two inputs or outputs have one name.")
    if request["ProcessingResources"]["ClusterConfig"]["InstanceCount"] != 1:
        wrong = "The sandbox has one instance: InstanceCount must be 1."
        raise AwsError("ValidationException", wrong)
