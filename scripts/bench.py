"""Measure what matters for speed, beside its floors, in one run on this machine.

    python scripts/bench.py [--seconds 3] [--repeats 3]      # or: make bench

The endpoint is measured with one-row CSV requests and data capture on, twice: its process on
its own socket, and through the sandbox with signed requests. The load comes from one more
process on the same cores. Medians over the repeats, with the range. Ratios, not seconds,
carry over to other machines.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import urlsplit

import joblib
import numpy as np
import pandas as pd
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest

import inference
import sandbox
from common import ROOT, UserError, load_params, print_json, run, say
from htru2 import FEATURES
from orchestrator.images import image_uri
from orchestrator.plan import sklearn_environment
from orchestrator.sandbox.archive import unpack
from package import ARCHIVE
from prepare import PREPARED
from target import resolve
from train import JOBLIB, MODELS

CLIENTS = (1, 8, 32)
BATCH_ROWS = 1_000_000


async def _load(
    address: str | tuple[str, int], request: bytes, clients: int, seconds: float
) -> list:
    """Latencies of keep-alive clients that ask one after the other, in seconds."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def client() -> None:
        if isinstance(address, str):
            reader, writer = await asyncio.open_unix_connection(address)
        else:
            reader, writer = await asyncio.open_connection(*address)
        while (began := time.perf_counter()) < end:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(head.decode(errors="replace"))
            length = next(
                line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
            )
            await reader.readexactly(int(length.split(b":")[1]))
            latencies.append(time.perf_counter() - began)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return latencies


def load(address, request: bytes, clients: int, seconds: float) -> dict:
    """Requests a second and latencies in ms, from a process of its own."""
    with get_context("spawn").Pool(1) as pool:
        latencies = sorted(pool.apply(_run_load, (address, request, clients, seconds)))
    count = len(latencies)
    return {
        "per_second": count / seconds,
        "p50_ms": latencies[count // 2] * 1000,
        "p99_ms": latencies[int(count * 0.99)] * 1000,
    }


def _run_load(*arguments) -> list:
    return asyncio.run(_load(*arguments))


def http(path: str, host: str, body: bytes, headers: dict[str, str]) -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
    lines += [f"{key}: {value}" for key, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def endpoint_alone(folder: Path) -> tuple[subprocess.Popen, str]:
    """The packaged model's endpoint process with capture on; its Unix socket."""
    unpack(ARCHIVE, folder / "model")
    job = {
        "config": "bench", "variant": "AllTraffic", "command": None,
        "model_dir": str(folder / "model"), "spool": str(folder / "spool"),
        "socket": str(folder / "socket"), "environment": sklearn_environment(),
        "image": image_uri("sklearn", load_params()["image"], "us-east-1"),
        "capture": {
            "EnableCapture": True, "InitialSamplingPercentage": 100,
            "CaptureOptions": [{"CaptureMode": "InputAndOutput"}],
            "CaptureContentTypeHeader": {"CsvContentTypes": ["text/csv"]},
        },
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(job))
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator.sandbox.serve", str(folder / "job.json")], cwd=ROOT,
        env=os.environ | job["environment"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    if b"ready" not in process.stdout.readline():
        raise UserError("the endpoint process does not start", "make package")
    return process, job["socket"]


def signed_request(row: bytes) -> tuple[tuple[str, int], bytes]:
    """The sandbox's address and a signed InvokeEndpoint request, good for 15 minutes."""
    target = resolve()
    url = f"{target.endpoint_url}/endpoints/pulsar/invocations"
    request = AWSRequest("POST", url, data=row, headers={"Content-Type": "text/csv"})
    SigV4Auth(target.session.get_credentials(), "sagemaker", target.region).add_auth(request)
    place = urlsplit(url)
    return (place.hostname, place.port), http(place.path, place.netloc, row, dict(request.headers))


def microseconds(function, count: int) -> float:
    times = []
    for _ in range(count):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


def batch(folder: Path, rows: list[str]) -> dict[str, float]:
    """Rows a second of score.py end to end, and of its floors: parsing alone, predict_proba alone."""
    path = folder / "night.csv"
    with open(path, "w") as file:
        for start in range(0, BATCH_ROWS, len(rows)):
            file.write("\n".join(rows[: BATCH_ROWS - start]) + "\n")
    command = [sys.executable, "scripts/score.py", str(path), "-o", str(folder / "out"), "--json"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    scored = BATCH_ROWS / json.loads(result.stdout)["seconds"]
    began = time.perf_counter()
    data = pd.read_csv(path, header=None).to_numpy()
    parsed = BATCH_ROWS / (time.perf_counter() - began)
    estimator, part = joblib.load(JOBLIB), data[:200_000]
    began = time.perf_counter()
    estimator.predict_proba(part)
    predicted = len(part) / (time.perf_counter() - began)
    return {"score.py": scored, "pandas parses": parsed, "predict_proba": predicted}


def measure(seconds: float, folder: Path, rows: list[str]) -> dict[str, float]:
    """One repeat: every figure by name."""
    row = rows[0].encode() + b"\n"
    figures: dict[str, float] = {}
    estimator, model = joblib.load(JOBLIB), inference.model_fn(str(MODELS))
    data = np.array([[float(cell) for cell in rows[0].split(",")]])

    def ask() -> None:
        prediction = inference.predict_fn(inference.input_fn(row.decode(), "text/csv"), model)
        inference.output_fn(prediction, "text/csv")

    figures["one row, predict_proba, us"] = microseconds(lambda: estimator.predict_proba(data), 200)
    figures["one row, inference.py, us"] = microseconds(ask, 2000)
    process, socket = endpoint_alone(folder)
    ways = {
        "process": (socket, http("/invocations", "endpoint", row, {"Content-Type": "text/csv"})),
        "sandbox": signed_request(row),
    }
    try:
        for way, (address, request) in ways.items():
            for clients in CLIENTS:
                for key, value in load(address, request, clients, seconds).items():
                    figures[f"{way}, {clients} clients, {key}"] = value
    finally:
        process.stdin.close()
        process.wait()
    for key, value in batch(folder, rows).items():
        figures[f"batch, {key}, rows/s"] = value
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of load per figure")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not ARCHIVE.exists() or sandbox.status()["state"] != "running":
        raise UserError("bench needs a deployed model", "make deploy")
    lines = (PREPARED / "test.csv").read_text().splitlines()[1:]
    rows = [",".join(line.split(",")[: len(FEATURES)]) for line in lines]
    repeats = []
    for number in range(arguments.repeats):
        say(f"bench: repeat {number + 1} of {arguments.repeats}")
        with tempfile.TemporaryDirectory() as folder:
            repeats.append(measure(arguments.seconds, Path(folder), rows))
    table = {
        name: {
            "median": statistics.median(values := [repeat[name] for repeat in repeats]),
            "range": [min(values), max(values)],
        }
        for name in repeats[0]
    }
    if arguments.json:
        print_json(table)
        return 0
    for name, figure in table.items():
        low, high = figure["range"]
        print(f"{name:42}{figure['median']:>14,.2f}   [{low:,.2f} .. {high:,.2f}]")
    median = {name: figure["median"] for name, figure in table.items()}
    faster = median["one row, predict_proba, us"] / median["one row, inference.py, us"]
    share = median["batch, score.py, rows/s"] / median["batch, pandas parses, rows/s"]
    print(f"one row, from CSV to answer: {faster:.0f} times as fast as predict_proba alone")
    print(f"batch, from file to file: {share:.2f} of the rate at which pandas parses alone")
    return 0


if __name__ == "__main__":
    run(main)
