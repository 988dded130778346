"""Transform jobs in the sandbox: candidates from object to object, and an endpoint beside one."""

import threading
import time
from pathlib import Path

import pandas as pd

from candidates import simulator
from common.errors import UserError
from common.output import say
from measure import batch, load, servers
from measure.place import DEFAULT, Place, Sandbox, processes, sandbox

SIZES = (100_000, 1_000_000, 10_000_000)
SIMULATED = 20_000  # candidates, over and over again
JOB, ENDPOINT = "transform job", "endpoint"
QUIET, BUSY = "p99 ms", "p99 ms beside a job"
PEER = "score s"  # of scripts/score.py, which has the same rows in a file and no endpoint beside it
CLIENTS = 8
POLL_SECONDS = 1.0  # asking takes time from the job
WORKERS = ("sandbox job", "sandbox endpoint night")  # how the job's processes are titled


def measure(place: Place) -> dict[tuple, float]:
    features, _ = simulator.simulate(SIMULATED // 10, SIMULATED - SIMULATED // 10, seed=7)
    lines = pd.DataFrame(features).to_csv(index=False, header=False).encode()
    figures: dict[tuple, float] = {}
    with sandbox(place.folder / "sandbox") as running:
        running.upload(place.archives[DEFAULT], "model.tar.gz")
        running.deploy("bench", "model.tar.gz")
        server = servers.through_sandbox(place, running, "bench")
        load.load(server.address, server.request, 2, min(1.0, place.seconds))
        quiet = load.load(server.address, server.request, CLIENTS, place.seconds)
        figures[ENDPOINT, CLIENTS, QUIET] = quiet["p99 ms"]
        for size in SIZES:
            say(f"bench: {size:,} candidates")
            path = place.folder / "night.csv"
            with open(path, "wb") as file:
                for _ in range(size // SIMULATED):
                    file.write(lines)
            running.upload(path, f"night{size}/night.csv")
            figures[JOB, size, PEER] = batch.score(path, size)["s"]
            path.unlink()
            figures |= {(JOB, size, key): value for key, value in _job(running, size).items()}
        job = threading.Thread(target=_job, args=(running, SIZES[-1], "beside"))
        job.start()
        time.sleep(2)  # it has begun by then
        busy = load.load(server.address, server.request, CLIENTS, place.seconds)
        figures[ENDPOINT, CLIENTS, BUSY] = busy["p99 ms"]
        job.join()
    return figures


def _job(running: Sandbox, size: int, name: str = "") -> dict[str, float]:
    """Seconds of a job from its request to its end, and MiB of its processes at their largest."""
    sagemaker, name = running.target.client("sagemaker"), f"night{name}{size}"
    model = sagemaker.list_models()["Models"][0]["ModelName"]
    bucket = running.target.bucket
    source = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{bucket}/night{size}/night.csv"}
    began = time.perf_counter()
    sagemaker.create_transform_job(
        TransformJobName=name,
        ModelName=model,
        TransformInput={
            "DataSource": {"S3DataSource": source}, "ContentType": "text/csv", "SplitType": "Line",
        },
        TransformOutput={
            "S3OutputPath": f"s3://{bucket}/out", "Accept": "text/csv", "AssembleWith": "Line",
        },
        TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 1},
    )  # fmt: skip
    peak = 0.0
    while True:
        job = sagemaker.describe_transform_job(TransformJobName=name)
        if job["TransformJobStatus"] != "InProgress":
            break
        peak = max(peak, sum(map(_peak, _workers(running))))
        time.sleep(POLL_SECONDS)
    if job["TransformJobStatus"] != "Completed":
        raise UserError(f"the job failed: {job.get('FailureReason')}")
    return {"s": time.perf_counter() - began, "MiB": peak}


def _workers(running: Sandbox) -> list[int]:
    found = processes(running.pid).items()
    return [pid for pid, title in found if title.startswith(WORKERS)]


def _peak(pid: int) -> float:
    """The most MiB that a process has had at once, where the kernel tells (Linux)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return int(found[0]) / 1024 if found else 0.0


def table(medians: pd.Series) -> str:
    lines = [f"{'candidates':>12}{'s':>8}{'rows/s':>12}{'MiB':>6}{'score.py, s':>13}"]
    for size in SIZES:
        seconds = medians[JOB, size, "s"]
        lines.append(
            f"{size:12,}{seconds:8.2f}{size / seconds:12,.0f}{medians[JOB, size, 'MiB']:6.0f}"
            f"{medians[JOB, size, PEER]:13.2f}"
        )
    quiet, busy = medians[ENDPOINT, CLIENTS, QUIET], medians[ENDPOINT, CLIENTS, BUSY]
    lines.append(
        f"an endpoint under {CLIENTS} clients: p99 {quiet:.1f} ms, beside a job {busy:.1f} ms: "
        f"{busy / quiet:.1f} times"
    )
    return "\n".join(lines)


def plot(axes, medians: pd.Series) -> None:
    axes.loglog(SIZES, [medians[JOB, size, "s"] for size in SIZES], "o-", label=JOB)
    axes.set(xlabel="candidates", ylabel="s")
    axes.legend()
