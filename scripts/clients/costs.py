"""What the orchestrator and a payload's pipeline cost on AWS, from prices.json with its date and source."""

import json
from datetime import UTC, datetime, timedelta

from common import ROOT
from orchestrator import schedules

PRICES = ROOT / "scripts" / "clients" / "prices.json"
SECONDS_PER_REQUEST = 0.5  # of the handler, generously
HANDLER_GB = 0.25
ENOUGH = 1000
CHECK_MINUTES = 10  # of a monitor's job, with the start of its machine


def estimate(payload: dict | None = None) -> list[dict]:
    """Rows of what / how it is billed / per month if left alone, in USD; None where unknown."""
    prices = json.loads(PRICES.read_text())
    per_request = (
        prices["api_gateway_per_million_requests"] / 1e6
        + prices["lambda_per_million_requests"] / 1e6
        + SECONDS_PER_REQUEST * HANDLER_GB * prices["lambda_per_gb_second"]
    )
    rows = [
        {"what": "orchestrator, idle", "billed": "nothing by the hour", "per_month": 0.0},
        {
            "what": "orchestrator, 1000 requests",
            "billed": f"{per_request * 1000:.4f} per 1000",
            "per_month": round(per_request * 1000, 4),
        },
        {
            "what": "assets bucket, 1 GB",
            "billed": f"{prices['s3_per_gb_month']} per GB and month",
            "per_month": prices["s3_per_gb_month"],
        },
    ]
    if payload:
        rows.append(_of(payload, prices))
    return rows


def _of(payload: dict, prices: dict) -> dict:
    """What a payload's pipeline has billed: an endpoint by the hour, a job while it runs. SageMaker's
    prices of the three are taken to be the same."""
    instance = str(payload.get("instance_type") or payload.get("inference_instance"))
    hourly = prices["hosting_per_hour"].get(instance)
    if "batch_inference_data" in payload:
        billed = f"{hourly} per hour while it runs" if hourly else "while it runs; price not known"
        return {"what": f"batch job, {instance}", "billed": billed, "per_month": None}
    if "schedule_expression" in payload:
        return _monitor(payload, instance, hourly, prices["hours_per_month"])
    return {
        "what": f"endpoint {payload.get('endpoint_name') or '(unnamed)'}, {instance}",
        "billed": f"{hourly} per hour" if hourly else "by the hour; price not known here",
        "per_month": round(hourly * prices["hours_per_month"], 2) if hourly else None,
    }


def _monitor(payload: dict, instance: str, hourly: float | None, hours_per_month: float) -> dict:
    checks = checks_per_month(payload["schedule_expression"], hours_per_month)
    each = hourly * CHECK_MINUTES / 60 if hourly else None
    minutes = f"check of {CHECK_MINUTES} minutes"
    return {
        "what": f"monitor of {payload.get('endpoint_name') or '(unnamed)'}, {instance}",
        "billed": f"{each:.4f} per {minutes}" if each else f"per {minutes}; price not known",
        "per_month": None if each is None or checks is None else round(each * checks, 2),
    }


def checks_per_month(expression: object, hours: float) -> float | None:
    """How often a schedule comes due in a month of so many hours, on average of the year to come or of
    its next ENOUGH times; None where it is no schedule."""
    try:
        schedule = schedules.parse(str(expression))
    except ValueError:
        return None
    begin, due = datetime.now(UTC), 0
    end = begin + timedelta(days=365)
    moment = schedule.next_after(begin)
    while moment is not None and moment <= end and due < ENOUGH:
        last, due = moment, due + 1
        moment = schedule.next_after(moment)
    looked_at = (last if due == ENOUGH else end) - begin
    return due * hours / (looked_at.total_seconds() / 3600)


def table(rows: list[dict]) -> str:
    prices = json.loads(PRICES.read_text())
    lines = [f"{'in USD':42}{'billed':34}{'a month':>10}"]
    for row in rows:
        month = "?" if row["per_month"] is None else f"{row['per_month']:.2f}"
        lines.append(f"{row['what']:42}{row['billed']:34}{month:>10}")
    lines.append(f"{prices['region']}, {prices['as_of']}: {prices['source']}")
    return "\n".join(lines)
