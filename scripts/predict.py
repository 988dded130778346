"""Ask the endpoint: is this candidate a pulsar?

    python scripts/predict.py                            # two examples from the hold-out
    python scripts/predict.py --input night.csv          # or - for standard input
    python scripts/predict.py 99.4 41.6 1.5 4.2 27.6 61.7 2.2 3.7

Input is CSV with the eight features in the data set's order, with or without a header; a
ninth column, the class, is shown beside the answer.
"""

import argparse
import sys
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from candidates.htru2 import FEATURES, is_number
from clients.api import ask
from clients.payloads import REALTIME, load_payload, pipeline_of
from clients.refusals import explained
from clients.target import Target, resolve
from common.errors import BadData, TargetError, UserError, run
from common.files import PREPARED, typed
from common.output import print_json

EXAMPLES = PREPARED / "examples.csv"
INFERENCE_OUTPUT = "BYOMInferenceLambdaRestApiEndpoint"
REQUEST_BYTES = 5_000_000  # SageMaker takes 6 MiB


def rows_of(text: str, name: str) -> tuple[list[str], list[str | None]]:
    """The feature part of each line, and its class where there is one."""
    rows, known = [], []
    for number, line in enumerate((line for line in text.splitlines() if line.strip()), start=1):
        cells = [cell.strip() for cell in line.split(",")]
        if number == 1 and not is_number(cells[0]):
            continue  # a header
        if len(cells) not in (8, 9):
            raise BadData(
                f"{name}: line {number} has {len(cells)} columns, not 8 (or 9 with the class)"
            )
        rows.append(",".join(cells[:8]))
        known.append(cells[8] if len(cells) == 9 else None)
    if not rows:
        raise BadData(f"{name}: no candidates in it")
    return rows, known


def read_input(arguments: argparse.Namespace) -> tuple[str, str]:
    if arguments.values:
        if len(arguments.values) != 8:
            raise BadData(f"{len(arguments.values)} values, not 8: {', '.join(FEATURES)}")
        return ",".join(arguments.values), "the command line"
    if str(arguments.input) == "-":
        return sys.stdin.read(), "standard input"
    try:
        return arguments.input.read_text(), str(arguments.input)
    except OSError as error:
        remedy = "make train" if arguments.input == EXAMPLES else ""
        raise BadData(f"{arguments.input}: {error.strerror}", remedy) from None


def batches(rows: list[str]) -> list[list[str]]:
    """Groups of rows, each small enough for one request."""
    groups, size = [[]], 0
    for row in rows:
        if size + len(row) + 1 > REQUEST_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(row)
        size += len(row) + 1
    return groups


def ask_endpoint(target: Target, endpoint: str, rows: list[str]) -> list[tuple[int, float]]:
    """Label and probability of each row."""
    runtime = target.client("sagemaker-runtime")
    answers = []
    try:
        for batch in batches(rows):
            body = "\n".join(batch) + "\n"
            answer = runtime.invoke_endpoint(
                EndpointName=endpoint, ContentType="text/csv", Accept="text/csv", Body=body
            )
            answers += answer["Body"].read().decode().split()
    except ClientError as error:
        if error.response["Error"]["Code"] == "ModelError":
            detail = error.response.get("OriginalMessage") or str(error)
            raise TargetError(f"endpoint {endpoint} refused the request: {detail}") from None
        detail = error.response["Error"]["Message"]
        raise TargetError(detail, "make status, make deploy") from None
    except BotoCoreError as error:
        raise TargetError(f"endpoint {endpoint} does not answer: {error}", "make sandbox") from None
    pairs = (answer.split(",") for answer in answers)
    return [(int(label), float(probability)) for label, probability in pairs]


def ask_api(target: Target, pipeline: str, rows: list[str]) -> list[tuple[int, float]]:
    """The same through the pipeline's inference API, which the original has as well.

    It cannot be told what to accept, so the package answers in JSON.
    """
    stacks = (pipeline, pipeline.removesuffix("-codepipeline"))  # ours; the original's second one
    answers = []
    with explained():
        cloudformation = target.client("cloudformation")
        stack = stacks[1] if target.is_original else stacks[0]
        described = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]
    outputs = {o["OutputKey"]: o["OutputValue"] for o in described.get("Outputs", [])}
    url = next((v for k, v in outputs.items() if k.startswith(INFERENCE_OUTPUT)), None)
    if url is None:
        raise TargetError(f"the stack {stack} has no inference API yet", "make status")
    for batch in batches(rows):
        body = {"payload": "\n".join(batch) + "\n", "content_type": "text/csv"}
        answers += ask(target, url.rstrip("/") + "/inference", body)["predictions"]
    return [(answer["label"], answer["probability"]) for answer in answers]


def trained_on(target: Target, endpoint: str) -> str:
    """What the model behind an endpoint was trained on, from its archive's metadata."""
    sagemaker = target.client("sagemaker")
    try:
        config_name = sagemaker.describe_endpoint(EndpointName=endpoint)["EndpointConfigName"]
        config = sagemaker.describe_endpoint_config(EndpointConfigName=config_name)
        model = sagemaker.describe_model(ModelName=config["ProductionVariants"][0]["ModelName"])
        bucket, _, key = model["PrimaryContainer"]["ModelDataUrl"][5:].partition("/")
        metadata = target.client("s3").head_object(Bucket=bucket, Key=key)["Metadata"]
    except (ClientError, KeyError):
        return "unknown data"
    source = metadata.get("trained-on", "unknown data").replace("-", " ")
    return source.upper() if metadata.get("simulated") == "true" else source


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("values", nargs="*", help="the eight features of one candidate")
    parser.add_argument("--input", type=typed, default=EXAMPLES, help="a CSV file, or -")
    parser.add_argument("--payload", type=Path, default=REALTIME, help="whose pipeline to ask")
    parser.add_argument("--endpoint", help="default: the payload's endpoint_name")
    parser.add_argument(
        "--api", action="store_true", help="ask through the pipeline's inference API"
    )
    parser.add_argument("--json", action="store_true", help="print the predictions as JSON")
    arguments = parser.parse_args()
    text, name = read_input(arguments)
    rows, known = rows_of(text, name)
    target = resolve()
    payload = load_payload(arguments.payload, target.bucket)
    endpoint = arguments.endpoint or payload.get("endpoint_name")
    if not isinstance(endpoint, str):
        raise UserError(f"{arguments.payload} names no endpoint_name", "make status")
    if arguments.api:
        answers = ask_api(target, pipeline_of(payload, arguments.payload), rows)
    else:
        answers = ask_endpoint(target, endpoint, rows)
    source = trained_on(target, endpoint)
    if arguments.json:
        predictions = [
            {"label": label, "probability": p} | ({"class": int(float(k))} if k is not None else {})
            for (label, p), k in zip(answers, known, strict=True)
        ]
        print_json({"endpoint": endpoint, "trained_on": source, "predictions": predictions})
        return 0
    print(f"endpoint {endpoint}, trained on {source}")
    print(f"{'row':>6}  {'answer':8}{'probability':>12}" + ("  in truth" if any(known) else ""))
    names = {0: "noise", 1: "PULSAR"}
    for number, ((label, probability), k) in enumerate(zip(answers, known, strict=True), start=1):
        truth = "  " + names.get(int(float(k)), k).lower() if k is not None else ""
        print(f"{number:>6}  {names[label]:8}{probability:12.6f}{truth}")
    return 0


if __name__ == "__main__":
    run(main)
