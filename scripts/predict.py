"""Ask the endpoint: is this candidate a pulsar?

    python scripts/predict.py                            # two examples from the hold-out
    python scripts/predict.py --input night.csv          # or - for standard input
    python scripts/predict.py 99.4 41.6 1.5 4.2 27.6 61.7 2.2 3.7

Input is a table of candidates in any dialect, Parquet, or either packed: columns are found by name, or
by position where eight have none. The class, where there is one, is shown beside the answer, and so is
what is neither feature nor class, such as an id. `model` is which of its two models the endpoint took,
`eight`, or `six` where DM curves are of another scale (docs/data.md); what lay outside of what it was trained
on is in its log. (With --api the model is not known: that hands on an answer's body alone.)
"""

import argparse
import io
import math
from pathlib import Path

import numpy as np
from botocore.exceptions import BotoCoreError, ClientError

from candidates import files
from candidates.tables import Layout, Rows
from clients.api import ask
from clients.payloads import REALTIME, load_payload, pipeline_of
from clients.refusals import explained
from clients.target import Target, resolve
from common.errors import BadData, TargetError, UserError, run
from common.files import PREPARED, typed
from common.output import print_json, say

EXAMPLES = PREPARED / "examples.csv"
INFERENCE_OUTPUT = "BYOMInferenceLambdaRestApiEndpoint"
REQUEST_BYTES = 5_000_000  # SageMaker takes 6 MiB
Answer = tuple[
    int, float, str | None
]  # label, probability, and the model where the endpoint names it


def read_input(arguments: argparse.Namespace) -> tuple[Layout, Rows]:
    """The candidates to ask about; what each column was taken for is said."""
    if arguments.values:
        text = ",".join(arguments.values) + "\n"
        return files.read_stream(io.BytesIO(text.encode()), "the command line")
    place = arguments.input
    try:
        found, rows = files.read(place, arguments.kurtosis, arguments.drop_bad)
    except BadData as error:
        if place == EXAMPLES and not EXAMPLES.exists():
            raise BadData(str(error), "make train") from None
        raise
    if place != EXAMPLES:
        for line in found.told():
            say(f"{place}: {line}")
    return found, rows


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


def ask_endpoint(target: Target, endpoint: str, rows: list[str]) -> list[Answer]:
    """The answer to each row."""
    runtime = target.client("sagemaker-runtime")
    answers = []
    try:
        for batch in batches(rows):
            body = "\n".join(batch) + "\n"
            answer = runtime.invoke_endpoint(
                EndpointName=endpoint, ContentType="text/csv", Accept="text/csv", Body=body
            )
            model = named_in(answer.get("CustomAttributes", ""))
            lines = answer["Body"].read().decode().split()
            pairs = (line.split(",") for line in lines)
            answers += [(int(label), float(probability), model) for label, probability in pairs]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ModelError":
            detail = error.response.get("OriginalMessage") or str(error)
            raise TargetError(f"endpoint {endpoint} refused the request: {detail}") from None
        detail = error.response["Error"]["Message"]
        raise TargetError(detail, "make status, make deploy") from None
    except BotoCoreError as error:
        raise TargetError(f"endpoint {endpoint} does not answer: {error}", "make sandbox") from None
    return answers


def named_in(attributes: str) -> str | None:
    """The model that an answer's custom attributes name."""
    key, _, value = attributes.partition("=")
    return value if key == "model" else None


def ask_api(target: Target, pipeline: str, rows: list[str]) -> list[Answer]:
    """The same through the pipeline's inference API, which the original has as well.

    It cannot be told what to accept, so the package answers in JSON; and hands on the answer's body
    alone, in which the model is not named.
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
        answer = ask(target, url.rstrip("/") + "/inference", body)
        answers += [(row["label"], row["probability"], None) for row in answer["predictions"]]
    return answers


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
    parser.add_argument("--input", type=typed, default=EXAMPLES, help="a table, or -")
    files.add_reading(parser)
    parser.add_argument("--payload", type=Path, default=REALTIME, help="whose pipeline to ask")
    parser.add_argument("--endpoint", help="default: the payload's endpoint_name")
    parser.add_argument(
        "--api", action="store_true", help="ask through the pipeline's inference API"
    )
    parser.add_argument("--json", action="store_true", help="print the predictions as JSON")
    arguments = parser.parse_args()
    found, table = read_input(arguments)
    rows = [",".join(map(repr, values)) for values in table.values.tolist()]
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
    titles = [found.title(column) or f"column {column + 1}" for column in found.carried]
    if arguments.json:
        predictions = [
            {"label": label, "probability": probability}
            | ({} if model is None else {"model": model})
            | ({} if math.isnan(truth) else {"class": int(truth)})
            | ({"carried": dict(zip(titles, cells, strict=True))} if titles else {})
            for (label, probability, model), truth, cells in zip(
                answers, table.truth, table.carried, strict=True
            )
        ]
        print_json({"endpoint": endpoint, "trained_on": source, "predictions": predictions})
        return 0
    print(f"endpoint {endpoint}, trained on {source}")
    print(answers_table(answers, table, titles))
    return 0


def answers_table(answers: list[Answer], table: Rows, titles: list[str]) -> str:
    """A line for each candidate: the answer, its class where it is known, what is carried through."""
    truths = not np.isnan(table.truth).all()
    names = {0: "noise", 1: "PULSAR"}
    lines = [f"{'row':>6}  {'answer':8}{'probability':>12}" + ("  in truth" if truths else "")]
    lines[0] += "".join(f"  {title}" for title in ["model", *titles])
    for number, (label, probability, model) in enumerate(answers):
        line = f"{number + 1:>6}  {names[label]:8}{probability:12.6f}"
        if truths:
            line += f"  {names.get(table.truth[number], 'unknown').lower():8}"
        line += f"  {model or '-':5}"
        lines.append(line + "".join(f"  {cell.strip()}" for cell in table.carried[number]))
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    run(main)
