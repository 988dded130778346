"""Transform jobs: the objects below a prefix, each through a model to an object of its own."""

from collections.abc import Callable

from orchestrator.sandbox.aws.wire import honours
from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.jobs.records import check_path
from orchestrator.sandbox.sagemaker.arns import found
from orchestrator.sandbox.sagemaker.jobs import FILTERS, Jobs
from orchestrator.sandbox.sagemaker.objects import must_have_bucket
from orchestrator.sandbox.state import State

KEPT = (
    "ModelName", "MaxConcurrentTransforms", "ModelClientConfig", "MaxPayloadInMB", "BatchStrategy",
    "Environment", "TransformInput", "TransformOutput", "TransformResources", "DataProcessing",
)  # fmt: skip
MOST_MEGABYTES = 100


class TransformJobs:
    def __init__(self, state: State, wake: Callable[[], None]) -> None:
        self._state = state
        self._jobs = Jobs(state, "transform-job", "TransformJob", wake)

    @honours(
        "TransformJobName", "ModelName", "MaxConcurrentTransforms", "MaxPayloadInMB",
        "BatchStrategy", "Environment", "Tags", "ModelClientConfig.InvocationsTimeoutInSeconds",
        "ModelClientConfig.InvocationsMaxRetries", "TransformInput.ContentType",
        "TransformInput.CompressionType", "TransformInput.SplitType",
        "TransformInput.DataSource.S3DataSource.S3DataType",
        "TransformInput.DataSource.S3DataSource.S3Uri", "TransformOutput.S3OutputPath",
        "TransformOutput.Accept", "TransformOutput.AssembleWith", "TransformOutput.KmsKeyId",
        "TransformResources.InstanceType", "TransformResources.InstanceCount",
        "TransformResources.VolumeKmsKeyId", "DataProcessing.InputFilter",
        "DataProcessing.OutputFilter", "DataProcessing.JoinSource",
    )  # fmt: skip
    def create_transform_job(self, request: dict) -> dict:
        found(self._state, "model", request["ModelName"])
        _check(request)
        source = request["TransformInput"]["DataSource"]["S3DataSource"]
        must_have_bucket(source["S3Uri"], "input")
        must_have_bucket(request["TransformOutput"]["S3OutputPath"], "output")
        return self._jobs.create(request)

    @honours("TransformJobName")
    def describe_transform_job(self, request: dict) -> dict:
        row = self._jobs.find(request["TransformJobName"])
        told = self._jobs.summary(row)
        del told["LastModifiedTime"]  # only a list tells that
        told |= {key: row["request"][key] for key in KEPT if key in row["request"]}
        return told | ({"TransformStartTime": row["started"]} if row["started"] else {})

    @honours("TransformJobName")
    def stop_transform_job(self, request: dict) -> dict:
        return self._jobs.stop(request["TransformJobName"])

    @honours(*FILTERS)
    def list_transform_jobs(self, request: dict) -> dict:
        return self._jobs.listed(request)


def _check(request: dict) -> None:
    """AwsError for what does not go together, or is not done here."""
    source, output = request["TransformInput"], request["TransformOutput"]
    told = request.get("DataProcessing", {})
    split, kind = source.get("SplitType", "None"), source.get("ContentType")
    wrong = None
    if source["DataSource"]["S3DataSource"]["S3DataType"] != "S3Prefix":
        wrong = "The sandbox takes S3DataType S3Prefix alone."
    elif split not in ("None", "Line"):
        wrong = f"The sandbox splits by Line, not by {split}."
    elif request["TransformResources"]["InstanceCount"] != 1:
        wrong = "The sandbox has one instance: InstanceCount must be 1."
    elif request.get("BatchStrategy") == "SingleRecord" and split == "None":
        wrong = "BatchStrategy SingleRecord needs a SplitType."
    elif request.get("MaxPayloadInMB") == 0:
        wrong = "The sandbox does not stream: MaxPayloadInMB must be 1 or more."
    elif (
        request.get("MaxPayloadInMB", 1) * request.get("MaxConcurrentTransforms", 1)
        > MOST_MEGABYTES
    ):
        wrong = f"MaxPayloadInMB times MaxConcurrentTransforms must not exceed {MOST_MEGABYTES}."
    elif told and kind not in ("text/csv", "application/jsonlines"):
        wrong = "DataProcessing needs the ContentType text/csv or application/jsonlines."
    elif told and split != "Line":
        wrong = "DataProcessing needs SplitType Line: it is done record by record."
    elif told.get("JoinSource", "None") == "Input" and (
        output.get("AssembleWith") != "Line" or output.get("Accept") != kind
    ):
        wrong = "JoinSource Input needs AssembleWith Line, and an Accept that is the ContentType."
    for key in ("InputFilter", "OutputFilter"):
        try:
            check_path(told.get(key, "$"))
        except ValueError as error:
            wrong = wrong or f"{key}: {error}"
    if wrong:
        raise AwsError("ValidationException", wrong)
