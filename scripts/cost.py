"""What the orchestrator and a payload's endpoint cost on AWS: idle, per request, per hour.

    python scripts/cost.py [payloads/pulsar-realtime.json]

The prices are in scripts/clients/prices.json, with their date and source. Nothing is asked of AWS.
"""

import argparse
from pathlib import Path

from clients.costs import estimate, table
from clients.payloads import REALTIME, load_payload
from common.errors import run
from common.output import print_json


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("payload", type=Path, nargs="?", default=REALTIME)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = estimate(load_payload(arguments.payload, bucket="<the assets bucket>"))
    print_json(rows) if arguments.json else print(table(rows))
    return 0


if __name__ == "__main__":
    run(main)
