"""Score a table of candidates, or a folder of candidate files, by a batch pipeline: upload, provision,
wait, fetch.

    python scripts/batch.py night.csv -o scored.csv
    python scripts/batch.py night/ -o scored/

The same as `scripts/score.py` gives on this machine, done by the orchestrator with the model that was
uploaded last, so that on AWS a night needs no machine of yours. The table may be in any dialect; what
goes to the model are the eight features alone, a line each, and what comes back is put beside the
table's other columns, in its order.

Of a folder, the files that `scripts/rank.py` would take go to the model as they are, and what it answers
to each comes back as a file of its name and `.out`: label,probability. One that the model refuses fails
the job, which names it; the others' answers come back all the same.

Input and output stay in the assets bucket.
"""

import argparse
import hashlib
import io
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv as fast_csv

from candidates import files, finding
from candidates.files import add_reading
from candidates.tables import Layout
from clients import costs, places
from clients.api import FAILED, ask, verdict, why
from clients.payloads import BATCH, load_payload, pipeline_of
from clients.refusals import explained
from clients.target import Target, name, resolve
from common.errors import BadData, TargetError, UserError, run
from common.files import sha256, write_atomically
from common.lines import csv_lines
from common.output import confirm, print_json, say
from orchestrator.contract import PROVISION_PATH
from orchestrator.pipelines.batch import CONTENT_TYPE, CSV, FILE, RESULT, SOURCE
from scoring import engine
from status import follow

AT_ONCE = 8  # files on their way to S3 or from it
SHOWN = 10  # files that are told one by one


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
    head = [] if found.header is None else [engine.columns(found, engine.ANSWER)]
    return "".join(csv_lines([*head, *rows]))


def payload_for(target: Target, path: Path, kind: str, digest: str) -> tuple[dict, str, str]:
    """The payload for an input of this content type and hash, and the keys below which the input and its
    output belong."""
    payload = load_payload(path, target.bucket)
    if payload.get(CONTENT_TYPE, kind) != kind:
        what = f"{path}: {CONTENT_TYPE} is {payload[CONTENT_TYPE]}, and the input {kind}"
        raise TargetError(what, f"edit {path}")
    places = {}
    for key in (SOURCE, RESULT):
        bucket, _, prefix = str(payload.get(key)).partition("/")
        if bucket != target.bucket:
            raise TargetError(f"{path}: {key} must be in {target.bucket}", f"edit {path}")
        places[key] = f"{prefix.rstrip('/')}/{digest[:12]}"
    payload |= {key: f"{target.bucket}/{prefix}" for key, prefix in places.items()}
    return payload, *places.values()


def ask_first(target: Target, payload: dict, what: str) -> None:
    """What costs something is said, and begun with a yes."""
    if name() == "aws":
        say(costs.table(costs.estimate(payload)))
        confirm(f"Score {what} in {target.region}?")


def carried_out(target: Target, payload: dict, arguments: argparse.Namespace) -> dict:
    """Have a batch pipeline do its job; how that ended."""
    say(f"batch: {ask(target, PROVISION_PATH, payload)['message']}")
    return follow(target, pipeline_of(payload, arguments.payload), arguments.timeout)


def failed(state: dict, payload: Path, besides: str = "") -> TargetError:
    return TargetError(why(state) + besides, f"python scripts/status.py {payload}")


def write(place: Path, content: str | bytes) -> None:
    try:
        write_atomically(place, content)
    except OSError as error:
        raise UserError(f"{place} cannot be written: {error.strerror}", "another -o") from None


def score_table(target: Target, arguments: argparse.Namespace) -> dict:
    """Write a table's scores; their summary."""
    found, rows = files.read(arguments.input, arguments.kurtosis, arguments.drop_bad)
    for line in found.told():
        say(f"{Path(arguments.input).name}: {line}")
    content, count = features_only(rows.values), len(rows.values)
    payload, source, result = payload_for(target, arguments.payload, CSV, sha256(content))
    source, result = (f"{place}/{Path(arguments.input).stem}.csv" for place in (source, result))
    ask_first(target, payload, f"{count} candidates")
    with explained():
        s3 = target.client("s3")
        s3.upload_fileobj(io.BytesIO(content), target.bucket, source)
        say(f"batch: {count} candidates to s3://{target.bucket}/{source}")
        state = carried_out(target, payload, arguments)
        if verdict(state) == FAILED:
            raise failed(state, arguments.payload)
        answers = s3.get_object(Bucket=target.bucket, Key=f"{result}.out")["Body"].read()
    write(Path(arguments.output), beside(found, rows.carried, answers))
    return {
        "rows": count, "pulsars": sum(line.startswith(b"1,") for line in answers.splitlines()),
        "output": arguments.output, "job": state["outputs"]["BatchTransformJobName"],
        "kept": f"s3://{target.bucket}/{result}.out",
    }  # fmt: skip


# -- a folder -------------------------------------------------------------------------


def score_folder(target: Target, arguments: argparse.Namespace) -> dict:
    """Write what the model says of each candidate file of a folder; a summary."""
    check_folder(target, arguments)
    there = candidates_in(arguments.input)
    hashes = each(lambda path: hash_of(there[path]), there)
    digest = sha256(repr([*zip(there, hashes, strict=True)]).encode())
    payload, source, result = payload_for(target, arguments.payload, FILE, digest)
    result = f"{result}/{datetime.now(UTC):%Y%m%dT%H%M%SZ}"  # where no earlier job has written
    payload |= {CONTENT_TYPE: FILE, RESULT: f"{target.bucket}/{result}"}
    ask_first(target, payload, f"{len(there)} files")
    with explained():
        s3 = target.client("s3")

        def send(path: str) -> None:
            with files.opened(there[path]) as (file, _):
                s3.upload_fileobj(file, target.bucket, f"{source}/{path}")

        each(send, there)
        say(f"batch: {len(there)} files to s3://{target.bucket}/{source}/")
        state = carried_out(target, payload, arguments)
        answers = fetched(s3, target.bucket, result, there, Path(arguments.output))
    without = [path for path in there if path not in answers]
    if verdict(state) == FAILED or without:
        more = ", …" if without[SHOWN:] else ""
        raise failed(
            state, arguments.payload,
            f" Without an answer are {len(without)} of {len(there)} files: "
            f"{', '.join(without[:SHOWN])}{more}; the others' are in {arguments.output}.",
        )  # fmt: skip
    return {
        "rows": len(answers), "pulsars": sum(text.startswith(b"1,") for text in answers.values()),
        "output": arguments.output, "job": state["outputs"]["BatchTransformJobName"],
        "kept": f"s3://{target.bucket}/{result}/",
    }  # fmt: skip


def fetched(s3, bucket: str, result: str, paths: Iterable[str], output: Path) -> dict[str, bytes]:
    """The answers that there are, by the path of their file, each written below `output`."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{result}/")
    there = {found["Key"] for page in pages for found in page.get("Contents", [])}

    def fetch(path: str) -> bytes:
        answer = s3.get_object(Bucket=bucket, Key=f"{result}/{path}.out")["Body"].read()
        write(output / f"{path}.out", answer)
        return answer

    for path in paths:
        (output / f"{path}.out").unlink(missing_ok=True)  # an earlier job's is not this one's
    answered = [path for path in paths if f"{result}/{path}.out" in there]
    return dict(zip(answered, each(fetch, answered), strict=True))


def check_folder(target: Target, arguments: argparse.Namespace) -> None:
    """UserError for what cannot be done with a folder."""
    if arguments.kurtosis or arguments.drop_bad:
        raise UserError("--kurtosis and --drop-bad are for tables", "the same without them")
    if target.is_original:
        raise TargetError("AWS's own orchestrator takes tables alone", "make rank")
    if os.path.lexists(arguments.output) and not os.path.isdir(arguments.output):
        raise UserError(f"{arguments.output} is no folder, and {arguments.input} is", "another -o")


def candidates_in(folder: str) -> dict[str, Path]:
    """The candidate files of a folder by their paths below it. BadData for what cannot be sent."""
    found = finding.find([folder], places.listed)
    for place, reason in found.lost.items():
        raise BadData(f"{place}: {reason}")
    for place, path in found.files.items():
        if not path.isprintable():
            raise BadData(f"{folder}: {path!r} cannot be a key in S3", "rename it")
        if not os.path.isfile(place):
            raise BadData(f"{place}: it is no file")
    if found.passed_over:
        say(f"batch: {found.passed_over} files of other names were passed over")
    return {path: Path(place) for place, path in found.files.items()}


def hash_of(place: Path) -> str:
    with files.opened(place) as (file, _):
        return hashlib.file_digest(file, "sha256").hexdigest()


def each(do: Callable[[str], object], paths: Iterable[str]) -> list:
    """Do something with each path or key, several at once."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(do, paths))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    expanded = os.path.expanduser
    parser.add_argument("input", type=expanded, help="a table of candidates, or a folder of files")
    parser.add_argument(
        "-o", "--output", type=expanded, required=True, help="a file; for a folder, a folder"
    )
    parser.add_argument(
        "--payload", type=Path, default=BATCH, help="default: payloads/pulsar-batch.json"
    )
    parser.add_argument("--timeout", type=float, default=7200, metavar="SECONDS")
    add_reading(parser)
    parser.add_argument("--json", action="store_true", help="print a summary as JSON")
    arguments = parser.parse_args()
    target = resolve()
    score = score_folder if os.path.isdir(arguments.input) else score_table
    summary = score(target, arguments)
    if arguments.json:
        print_json(summary)
    else:
        say(
            f"batch: {summary['rows']} candidates, {summary['pulsars']} pulsars, in {arguments.output}"
        )
    return 0


if __name__ == "__main__":
    run(main)
