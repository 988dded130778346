"""Check now what an endpoint has captured: provision its monitor, and run one check.

    python scripts/monitor.py payloads/pulsar-data-quality.json

Uploads the baseline, provisions the pipeline, which an unchanged payload leaves as it is, waits until
the baseline's job has ended, and starts the job that the schedule would start, over what was captured
since the last one. Prints what it found, and where the files lie.

Exit codes: 0 nothing to complain of, 1 the check could not be made, 3 violations.
"""

import argparse
import json
import uuid
from datetime import UTC, datetime
from pathlib import Path

from botocore.exceptions import ClientError

from clients import costs
from clients.api import FAILED, ask, verdict, why
from clients.payloads import DATA_QUALITY, load_payload, pipeline_of
from clients.refusals import explained
from clients.target import Target, name, resolve
from clients.waiting import wait
from common.errors import TargetError, UserError, run
from common.files import BASELINES, PREPARED
from common.output import confirm, print_json, say
from orchestrator.contract import PROVISION_PATH
from status import follow

VIOLATIONS = 3
OURS = {
    path.name: path
    for path in (
        BASELINES / "data-quality.csv", BASELINES / "model-quality.csv", PREPARED / "baseline.csv"
    )
}  # fmt: skip
REPORT = "report.md"


def upload_baseline(target: Target, payload: dict) -> None:
    """Put the baseline where the payload looks for it; one of another name is there already."""
    key = str(payload.get("baseline_data"))
    path = OURS.get(key.rpartition("/")[2])
    if path is None:
        return
    if not path.is_file():
        raise UserError(f"{path} does not exist", "make train")
    target.client("s3").upload_file(str(path), target.bucket, key)
    say(f"monitor: baseline to s3://{target.bucket}/{key}")


def begin(target: Target, schedule: str, moment: datetime) -> str:
    """Start the job that a schedule would start; its name."""
    found = target.client("scheduler").get_schedule(Name=schedule)
    attributes = {
        "<aws.scheduler.execution-id>": str(uuid.uuid4()),
        "<aws.scheduler.scheduled-time>": f"{moment:%Y-%m-%dT%H:%M:%SZ}",
        "<aws.scheduler.schedule-arn>": found["Arn"],
        "<aws.scheduler.attempt-number>": "1",
    }
    text = found["Target"]["Input"]
    for attribute, value in attributes.items():
        text = text.replace(attribute, value)
    request = json.loads(text)
    target.client("sagemaker").create_processing_job(**request)
    return request["ProcessingJobName"]


def ended(target: Target, job: str, timeout: float) -> dict:
    """Wait for a job's end; what SageMaker says of it."""

    def look() -> tuple[dict | None, str]:
        state = target.client("sagemaker").describe_processing_job(ProcessingJobName=job)
        is_over = state["ProcessingJobStatus"] not in ("InProgress", "Stopping")
        return (state if is_over else None), f"monitor: {job}"

    return wait(look, timeout, f"{job} has not ended")


def fetched(target: Target, place: str, file: str) -> str | None:
    """A result's text, None where this kind of monitor writes none."""
    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    try:
        found = target.client("s3").get_object(Bucket=bucket, Key=f"{prefix}{file}")
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchKey":
            raise
        return None
    return found["Body"].read().decode()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("payload", type=Path, nargs="?", default=DATA_QUALITY)
    parser.add_argument("--timeout", type=float, default=3600, metavar="SECONDS")
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")
    arguments = parser.parse_args()
    target = resolve()
    payload = load_payload(arguments.payload, target.bucket)
    if name() == "aws":
        say(costs.table(costs.estimate(payload)))
        confirm(f"Provision this monitor in {target.region}, and run a check?")
    with explained():
        upload_baseline(target, payload)
        say(f"monitor: {ask(target, PROVISION_PATH, payload)['message']}")
        state = follow(target, pipeline_of(payload, arguments.payload), arguments.timeout)
        if verdict(state) == FAILED:
            raise TargetError(why(state), f"python scripts/status.py {arguments.payload}")
        outputs, moment = state["outputs"], datetime.now(UTC).replace(microsecond=0)
        job = begin(target, outputs["MonitoringScheduleJobName"], moment)
        say(f"monitor: {job}")
        done = ended(target, job, arguments.timeout)
        if done["ProcessingJobStatus"] != "Completed":
            reason = done.get("ExitMessage") or done.get("FailureReason", "no reason was given")
            raise TargetError(f"the check could not be made: {reason}", "")
        place = f"{outputs['MonitoringScheduleOutput']}{moment:%Y/%m/%d/%H}/"
        violations = json.loads(fetched(target, place, "constraint_violations.json") or "{}")
        report = fetched(target, place, REPORT)
    found = violations.get("violations", [])
    if arguments.json:
        print_json(
            {"job": job, "message": done.get("ExitMessage"), "results": place, "violations": found}
        )
    else:
        print(report or "\n".join(item["description"] for item in found))
        print(f"{done.get('ExitMessage')}\nfiles: {place}")
    return VIOLATIONS if found else 0


if __name__ == "__main__":
    run(main)
