"""Ask the endpoint: is this candidate a pulsar?

    python scripts/predict.py                            # two examples from the hold-out
    python scripts/predict.py --input night.csv          # or - for standard input
    python scripts/predict.py --input candidate.phcx.gz
    python scripts/predict.py 99.4 41.6 1.5 4.2 27.6 61.7 2.2 3.7

Input is a candidate file, PHCX or PFD, packed by gzip or not, which goes to the endpoint as it is; or a
table of candidates in any dialect, Parquet, or either packed: columns are found by name, or by position
where eight have none. Which of both it is, its content says. The class, where there is one, is shown beside
the answer, and so is what is neither feature nor class, such as an id. `model` is which of its two models the
endpoint took, `eight`, or `six` where DM curves are of another scale (docs/data.md); what lay outside of what
it was trained on is in its log. (With --api the model is not known: that hands on an answer's body alone.)
"""

import argparse
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from botocore.exceptions import BotoCoreError, ClientError

from candidates import files, folds
from clients.api import ask
from clients.payloads import REALTIME, load_payload, pipeline_of
from clients.refusals import explained
from clients.target import Target, resolve
from common.errors import BadData, TargetError, UserError, run
from common.files import PREPARED, typed
from common.output import print_json, say

EXAMPLES = PREPARED / "examples.csv"
INFERENCE_OUTPUT = "BYOMInferenceLambdaRestApiEndpoint"
MOST_BYTES = 6 * 1024**2  # of a request to SageMaker
TABLE_BYTES = 5_000_000  # of a table in one
TABLE, FILE = "text/csv", "application/octet-stream"
Answer = tuple[
    int, float, str | None
]  # label, probability, and the model where the endpoint names it


@dataclass(frozen=True)
class Asked:
    """What the endpoint is asked, in one request or more, and what stands beside its n answers.

    `truth` (n,) is the class, NaN where it is unknown; `carried` are n rows of cells under `titles`.
    """

    content_type: str
    bodies: list[bytes]
    truth: np.ndarray
    titles: list[str]
    carried: list[list[str]]


def read_input(arguments: argparse.Namespace) -> Asked:
    """The candidates to ask about; what each column of a table was taken for is said."""
    if arguments.values:
        text = ",".join(arguments.values) + "\n"
        return table(text.encode(), "the command line", arguments)
    place = arguments.input
    name = "standard input" if str(place) == "-" else place.name
    if place.is_dir():
        raise UserError(f"{place} is a folder", f"make rank INPUT={place} OUTPUT=ranked.csv")
    try:
        with files.opened(place) as (stream, _):
            content = stream.read(files.MAX_BYTES + 1)  # more is refused where it is read
    except BadData as error:
        if place == EXAMPLES and not EXAMPLES.exists():
            raise BadData(str(error), "make train") from None
        raise
    except OSError as error:
        raise BadData(f"{name}: {error.strerror}") from None
    if folds.recognised(content):
        return candidate(content, name, arguments)
    return table(content, name, arguments)


def table(content: bytes, name: str, arguments: argparse.Namespace) -> Asked:
    """A table's rows as plain CSV, in bodies that are small enough for a request each."""
    found, rows = files.read_stream(
        io.BytesIO(content), name, arguments.kurtosis, arguments.drop_bad
    )
    if not arguments.values and arguments.input != EXAMPLES:
        for line in found.told():
            say(f"{arguments.input}: {line}")
    titles = [found.title(column) or f"column {column + 1}" for column in found.carried]
    lines = [",".join(map(repr, values)).encode() for values in rows.values.tolist()]
    return Asked(TABLE, bodies(lines), rows.truth, titles, rows.carried)


def bodies(lines: list[bytes]) -> list[bytes]:
    groups, size = [[]], 0
    for line in lines:
        if size + len(line) + 1 > TABLE_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(line)
        size += len(line) + 1
    return [b"\n".join(group) + b"\n" for group in groups]


def candidate(content: bytes, name: str, arguments: argparse.Namespace) -> Asked:
    """A candidate file as it is: its features are the endpoint's to compute."""
    for option in ("kurtosis", "drop_bad", "api"):
        if getattr(arguments, option):
            what = f"--{option.replace('_', '-')} is for tables, and {name} is a candidate file"
            raise UserError(what, "the same without it")
    if len(content) > MOST_BYTES:
        raise BadData(
            f"{name}: {len(content)} bytes are more than a request's {MOST_BYTES}",
            "pack it by gzip, or: make rank",
        )
    return Asked(FILE, [content], np.array([math.nan]), ["file"], [[name]])


def ask_endpoint(target: Target, endpoint: str, asked: Asked) -> list[Answer]:
    """The answer to each candidate."""
    runtime = target.client("sagemaker-runtime")
    answers = []
    try:
        for body in asked.bodies:
            answer = runtime.invoke_endpoint(
                EndpointName=endpoint, ContentType=asked.content_type, Accept=TABLE, Body=body
            )
            model = named_in(answer.get("CustomAttributes", ""))
            lines = answer["Body"].read().decode().split()
            pairs = (line.split(",") for line in lines)
            answers += [(int(label), float(probability), model) for label, probability in pairs]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ModelError":
            detail = error.response.get("OriginalMessage") or str(error)
            # A package that knows no such file, or has no model for it.
            older = error.response.get("OriginalStatusCode") in (415, 422)
            raise TargetError(
                f"endpoint {endpoint} refused the request: {detail}", "make deploy" if older else ""
            ) from None
        detail = error.response["Error"]["Message"]
        raise TargetError(detail, "make status, make deploy") from None
    except BotoCoreError as error:
        raise TargetError(f"endpoint {endpoint} does not answer: {error}", "make sandbox") from None
    return answers


def named_in(attributes: str) -> str | None:
    """The model that an answer's custom attributes name."""
    key, _, value = attributes.partition("=")
    return value if key == "model" else None


def ask_api(target: Target, pipeline: str, asked: Asked) -> list[Answer]:
    """The same of a table through the pipeline's inference API, which the original has as well.

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
    for body in asked.bodies:
        request = {"payload": body.decode(), "content_type": asked.content_type}
        answer = ask(target, url.rstrip("/") + "/inference", request)
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
    parser.add_argument(
        "--input", type=typed, default=EXAMPLES, help="a candidate file, a table, or -"
    )
    files.add_reading(parser)
    parser.add_argument("--payload", type=Path, default=REALTIME, help="whose pipeline to ask")
    parser.add_argument("--endpoint", help="default: the payload's endpoint_name")
    parser.add_argument(
        "--api", action="store_true", help="ask through the pipeline's inference API"
    )
    parser.add_argument("--json", action="store_true", help="print the predictions as JSON")
    arguments = parser.parse_args()
    asked = read_input(arguments)
    target = resolve()
    payload = load_payload(arguments.payload, target.bucket)
    endpoint = arguments.endpoint or payload.get("endpoint_name")
    if not isinstance(endpoint, str):
        raise UserError(f"{arguments.payload} names no endpoint_name", "make status")
    if arguments.api:
        answers = ask_api(target, pipeline_of(payload, arguments.payload), asked)
    else:
        answers = ask_endpoint(target, endpoint, asked)
    source = trained_on(target, endpoint)
    if arguments.json:
        predictions = [
            {"label": label, "probability": probability}
            | ({} if model is None else {"model": model})
            | ({} if math.isnan(truth) else {"class": int(truth)})
            | ({"carried": dict(zip(asked.titles, cells, strict=True))} if asked.titles else {})
            for (label, probability, model), truth, cells in zip(
                answers, asked.truth, asked.carried, strict=True
            )
        ]
        print_json({"endpoint": endpoint, "trained_on": source, "predictions": predictions})
        return 0
    print(f"endpoint {endpoint}, trained on {source}")
    print(answers_table(answers, asked))
    return 0


def answers_table(answers: list[Answer], asked: Asked) -> str:
    """A line for each candidate: the answer, its class where it is known, what is carried through."""
    truths = not np.isnan(asked.truth).all()
    names = {0: "noise", 1: "PULSAR"}
    lines = [f"{'row':>6}  {'answer':8}{'probability':>12}" + ("  in truth" if truths else "")]
    lines[0] += "".join(f"  {title}" for title in ["model", *asked.titles])
    for number, (label, probability, model) in enumerate(answers):
        line = f"{number + 1:>6}  {names[label]:8}{probability:12.6f}"
        if truths:
            line += f"  {names.get(asked.truth[number], 'unknown').lower():8}"
        line += f"  {model or '-':5}"
        lines.append(line + "".join(f"  {cell.strip()}" for cell in asked.carried[number]))
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    run(main)
