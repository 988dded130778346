"""What SageMaker's kinds of jobs have in common: created, described, stopped, listed."""

from collections.abc import Callable

from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.sagemaker import listing, tags
from orchestrator.sandbox.sagemaker.arns import KINDS, arn
from orchestrator.sandbox.state import State, now

FILTERS = (
    *listing.FILTERS, "LastModifiedTimeAfter", "LastModifiedTimeBefore", "StatusEquals",
)  # fmt: skip


class Jobs:
    """One kind of job; `wake` tells the queue that there is something to do."""

    def __init__(self, state: State, kind: str, noun: str, wake: Callable[[], None]) -> None:
        self._state = state
        self._kind = kind
        self._table = KINDS[kind][0]
        self._noun = noun
        self._wake = wake

    def create(self, request: dict) -> dict:
        name = request[f"{self._noun}Name"]
        with self._state.transaction():
            if any(row["name"].lower() == name.lower() for row in self._state.rows(self._table)):
                taken = (
                    "Job name must be unique within an AWS account and region, and a job with this "
                    f"name already exists ({self.arn(name)})"
                )
                raise AwsError("ResourceInUse", taken)
            tags.keep(self._state, self.arn(name), request.get("Tags", []))
            self._state.insert(
                self._table, name=name, arn=self.arn(name), request=request, status="InProgress",
                created=now(), updated=now(),
            )  # fmt: skip
        self._wake()
        return {f"{self._noun}Arn": self.arn(name)}

    def arn(self, name: str) -> str:
        return arn(self._kind, name)

    def find(self, name: str) -> dict:
        row = self._state.row(self._table, name=name)
        if row is None:
            what = f"Could not find requested job with name: {name}"
            raise AwsError("ValidationException", what)
        return row

    def stop(self, name: str) -> dict:
        with self._state.transaction():
            row = self.find(name)
            if row["status"] not in ("InProgress", "Stopping"):
                ended = f"The request was rejected because the job is in status {row['status']}"
                raise AwsError("ValidationException", ended)
            self._state.update(self._table, {"name": name}, status="Stopping", updated=now())
        self._wake()
        return {}

    def listed(self, request: dict) -> dict:
        rows = self._state.rows(self._table)
        return listing.page(rows, request, self.summary, f"{self._noun}Summaries", self._noun)

    def summary(self, row: dict) -> dict:
        """What a list tells of a job, and a description too."""
        end = "ProcessingEndTime" if self._noun == "ProcessingJob" else "TransformEndTime"
        told = {
            f"{self._noun}Name": row["name"],
            f"{self._noun}Arn": self.arn(row["name"]),
            f"{self._noun}Status": row["status"],
            "CreationTime": row["created"],
            "LastModifiedTime": row["updated"],
            end: row["ended"],
            "FailureReason": row["reason"],
        }
        return {key: value for key, value in told.items() if value is not None}
