"""A monitor's checks: what the last one found, and when the next one is due."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from clients.target import Target
from orchestrator import schedules

WINDOW, VIOLATIONS = "window.json", "constraint_violations.json"  # of each check, side by side


@dataclass(frozen=True)
class Checks:
    """`last` is what there is to say of the last check, None before the first."""

    last: str | None
    due: datetime | None  # the next one, UTC

    def __str__(self) -> str:
        due = f"{self.due:%Y-%m-%d %H:%M} UTC" if self.due else "never"
        return f"last check: {self.last or 'none yet'}; next: {due}"


def checks_of(target: Target, outputs: dict[str, str]) -> Checks | None:
    """The checks of the pipeline with these outputs; None when it is no monitor."""
    expression = outputs.get("ScheduleExpression")
    if expression is None:
        return None
    due = schedules.parse(expression).next_after(datetime.now(UTC))
    return Checks(_last(target, outputs["MonitoringScheduleOutput"]), due)


def _last(target: Target, results: str) -> str | None:
    bucket, _, prefix = results.removeprefix("s3://").partition("/")
    s3 = target.client("s3")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = {item["Key"] for page in pages for item in page.get("Contents", [])}
    windows = [key for key in keys if key.endswith(f"/{WINDOW}")]
    if not windows:
        return None
    newest = max(windows)  # its folder is the hour of the check
    window = _read(s3, bucket, newest)
    beside = newest.removesuffix(WINDOW) + VIOLATIONS
    found = _read(s3, bucket, beside)["violations"] if beside in keys else []
    return f"{window['end_time']}, {window['records']} candidates, {len(found)} violations"


def _read(s3, bucket: str, key: str) -> dict:
    return json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
