"""Score a table of candidates by a batch pipeline: upload, provision, wait, fetch.

    python scripts/batch.py night.csv -o scored.csv

The same as `scripts/score.py` gives on this machine, done by the orchestrator with the model that was
uploaded last, so that on AWS a night needs no machine of yours. The table may be in any dialect; what
goes to the model are the eight features alone, a line each, and what comes back is put beside the
table's other columns, in its order. Input and output stay in the assets bucket.
"""

import argparse
import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv as fast_csv

from candidates import files
from candidates.files import add_reading
from candidates.tables import Layout
from clients import costs
from clients.api import FAILED, ask, verdict, why
from clients.payloads import BATCH, load_payload, pipeline_of
from clients.refusals import explained
from clients.target import Target, name, resolve
from common.errors import BadData, TargetError, run
from common.files import sha256, write_atomically
from common.lines import csv_lines
from common.output import confirm, print_json, say
from orchestrator.contract import PROVISION_PATH
from scoring import engine
from status import follow


def features_only(values: np.ndarray) -> bytes:
    """Rows of features (n, 8) as the plain CSV that a batch job takes, to the last bit."""
    columns = {str(number): column for number, column in enumerate(values.T)}
    buffer = io.BytesIO()
    fast_csv.write_csv(pa.table(columns), buffer, fast_csv.WriteOptions(include_header=False))
    return buffer.getvalue()


def beside(found: Layout, carried: list, answers: bytes) -> str:
    """Each line of answers behind what the table has besides features and class."""
    lines = answers.decode().splitlines()
    if len(lines) != len(carried):
        raise BadData(f"the job answered {len(lines)} lines to {len(carried)} candidates")
    rows = (
        [*(cell.strip() for cell in cells), *line.split(",")]
        for cells, line in zip(carried, lines, strict=True)
    )
    return engine.header(found, engine.ANSWER).decode() + "".join(csv_lines(rows))


def payload_for(target: Target, path: Path, digest: str, file_name: str) -> tuple[dict, str, str]:
    """The payload for one uploaded table, the key where that belongs, and the key of its output."""
    payload = load_payload(path, target.bucket)
    places = {}
    for key in ("batch_inference_data", "batch_job_output_location"):
        bucket, _, prefix = str(payload.get(key)).partition("/")
        if bucket != target.bucket:
            raise TargetError(f"{path}: {key} must be in {target.bucket}", f"edit {path}")
        places[key] = f"{prefix.rstrip('/')}/{digest[:12]}"
    payload |= {key: f"{target.bucket}/{prefix}" for key, prefix in places.items()}
    source, result = places.values()
    return payload, f"{source}/{file_name}", f"{result}/{file_name}.out"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    expanded = os.path.expanduser
    parser.add_argument("input", type=expanded, help="a table of candidates")
    parser.add_argument("-o", "--output", type=expanded, required=True, help="a file")
    parser.add_argument(
        "--payload", type=Path, default=BATCH, help="default: payloads/pulsar-batch.json"
    )
    parser.add_argument("--timeout", type=float, default=7200, metavar="SECONDS")
    add_reading(parser)
    parser.add_argument("--json", action="store_true", help="print a summary as JSON")
    arguments = parser.parse_args()
    target = resolve()
    found, rows = files.read(arguments.input, arguments.kurtosis, arguments.drop_bad)
    for line in found.told():
        say(f"{Path(arguments.input).name}: {line}")
    content = features_only(rows.values)
    file_name = f"{Path(arguments.input).stem}.csv"
    payload, source, result = payload_for(target, arguments.payload, sha256(content), file_name)
    if name() == "aws":
        say(costs.table(costs.estimate(payload)))
        confirm(f"Score {len(rows.values)} candidates in {target.region}?")
    with explained():
        s3 = target.client("s3")
        s3.upload_fileobj(io.BytesIO(content), target.bucket, source)
        say(f"batch: {len(rows.values)} candidates to s3://{target.bucket}/{source}")
        say(f"batch: {ask(target, PROVISION_PATH, payload)['message']}")
        state = follow(target, pipeline_of(payload, arguments.payload), arguments.timeout)
        if verdict(state) == FAILED:
            raise TargetError(why(state), f"python scripts/status.py {arguments.payload}")
        answers = s3.get_object(Bucket=target.bucket, Key=result)["Body"].read()
    scored = beside(found, rows.carried, answers)
    write_atomically(Path(arguments.output), scored)
    pulsars = sum(line.startswith(b"1,") for line in answers.splitlines())
    if arguments.json:
        print_json({
            "rows": len(rows.values), "pulsars": pulsars, "output": arguments.output,
            "job": state["outputs"]["BatchTransformJobName"], "kept": f"s3://{target.bucket}/{result}",
        })  # fmt: skip
    else:
        say(f"batch: {len(rows.values)} candidates, {pulsars} pulsars, in {arguments.output}")
    return 0


if __name__ == "__main__":
    run(main)
