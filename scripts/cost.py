"""What the orchestrator and a payload's endpoint cost on AWS: idle, per request, per hour.

    python scripts/cost.py [payloads/pulsar-realtime.json]

The prices are in scripts/prices.json, with their date and source. Nothing is asked of AWS.
"""

import argparse
import json
from pathlib import Path

from common import ROOT, UserError, print_json, run

PRICES = ROOT / "scripts" / "prices.json"
SECONDS_PER_REQUEST = 0.5  # of the handler, generously
HANDLER_GB = 0.25


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
        instance = str(payload.get("inference_instance"))
        hourly = prices["hosting_per_hour"].get(instance)
        rows.append(
            {
                "what": f"endpoint {payload.get('endpoint_name') or '(unnamed)'}, {instance}",
                "billed": f"{hourly} per hour" if hourly else "by the hour; price not known here",
                "per_month": round(hourly * prices["hours_per_month"], 2) if hourly else None,
            }
        )
    return rows


def table(rows: list[dict]) -> str:
    prices = json.loads(PRICES.read_text())
    lines = [f"{'in USD':42}{'billed':34}{'a month':>10}"]
    for row in rows:
        month = "?" if row["per_month"] is None else f"{row['per_month']:.2f}"
        lines.append(f"{row['what']:42}{row['billed']:34}{month:>10}")
    lines.append(f"{prices['region']}, {prices['as_of']}: {prices['source']}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = ROOT / "payloads" / "pulsar-realtime.json"
    parser.add_argument("payload", type=Path, nargs="?", default=default)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    try:
        payload = json.loads(arguments.payload.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{arguments.payload}: {error}") from None
    rows = estimate(payload)
    print_json(rows) if arguments.json else print(table(rows))
    return 0


if __name__ == "__main__":
    run(main)
