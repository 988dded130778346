"""A processing job's own process: what a container of SageMaker finds and leaves, on this machine.

    /opt/ml/processing/…                the inputs, fetched from S3; the outputs, sent there at the end
    /opt/ml/config/*.json               what was asked, and who runs it
    /opt/ml/output/message              what the container has to say: the job's exit message

There is no such folder on a laptop: the job's own stands for /opt/ml, in its command and arguments and
in its environment, wherever a word begins with that. A scikit-learn image stands for this environment's
Python. On Linux the command is confined as a model is (hosting/confinement.py), but for the sandbox's own
two ports: it runs the code of models, and of whoever wrote the job.

Source: SageMaker developer guide, "How Amazon SageMaker Processing runs your processing container
image".
"""

import gzip
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from resource import RLIM_INFINITY
from urllib.parse import urlsplit

from orchestrator.environment import client
from orchestrator.images import sklearn_version_of
from orchestrator.sandbox.children import environment
from orchestrator.sandbox.hosting.confinement import WORK, confine
from orchestrator.sandbox.hosting.publisher import split_url
from orchestrator.sandbox.jobs import work
from orchestrator.sandbox.jobs.work import COMPLETED, FAILED, JobFailed, Outcome
from orchestrator.sandbox.places import Places

log = logging.getLogger("job")

ML = "/opt/ml"
BELOW_ML = re.compile(r"(?<![\w./-])/opt/ml(?=/|$)")
USUAL_SECONDS = 86400  # MaxRuntimeInSeconds
MESSAGE_LENGTH = 1024
ADDRESSES = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")  # all that a job can reach
FETCHED, STARTED, SENT = "fetching inputs", "running", "sending outputs"


def main(job: dict) -> int:
    """Besides what `work.run` says: `request`, as CreateProcessingJob has it, and `arn`."""
    return work.run(job, process)


def process(job: dict, tell: Callable[..., None]) -> Outcome:
    request, ml = job["request"], Places(Path()).process(job["process"]).absolute() / "ml"
    command, variables = _command(request, ml)
    tell(progress={"doing": FETCHED})
    _lay_out(job, request, ml)
    for source in request.get("ProcessingInputs", []):
        _fetch(source["S3Input"], ml)
    log.info("running %s", " ".join(command))
    tell(progress={"doing": STARTED})
    code, in_time = _run(job, request, ml, command, variables)
    tell(progress={"doing": SENT})
    for output in request.get("ProcessingOutputConfig", {}).get("Outputs", []):
        _send(output["S3Output"], ml)
    message = _message(ml)
    if not in_time:
        return Outcome(FAILED, "AlgorithmError: MaxRuntimeInSeconds was reached.", message)
    if code:
        said = message or "See job logs for more information"
        return Outcome(FAILED, f"AlgorithmError: {said.rstrip('.')}, exit code: {code}", message)
    return Outcome(COMPLETED, None, message)


def _command(request: dict, ml: Path) -> tuple[list[str], dict[str, str]]:
    """The container's command and environment, as they are here."""
    application = request["AppSpecification"]
    if sklearn_version_of(application["ImageUri"]) is None:
        raise JobFailed(
            f"ClientError: the sandbox has nothing to run in place of the image "
            f"{application['ImageUri']}: name a scikit-learn image."
        )
    words = application.get("ContainerEntrypoint", []) + application.get("ContainerArguments", [])
    if not application.get("ContainerEntrypoint"):
        raise JobFailed("ClientError: a scikit-learn image needs a ContainerEntrypoint.")
    return [_here(word, ml) for word in words], {
        key: _here(value, ml) for key, value in request.get("Environment", {}).items()
    }


def _here(word: str, ml: Path) -> str:
    return BELOW_ML.sub(lambda _: str(ml), word)


def _lay_out(job: dict, request: dict, ml: Path) -> None:
    """The folder that stands for /opt/ml, as empty as a new container's."""
    shutil.rmtree(ml, ignore_errors=True)
    for name in ("config", "output", "processing"):
        (ml / name).mkdir(mode=0o700, parents=True)
    for output in request.get("ProcessingOutputConfig", {}).get("Outputs", []):
        _place(output["S3Output"]["LocalPath"], ml).mkdir(parents=True, exist_ok=True)
    config = request | {"ProcessingJobArn": job["arn"]}
    (ml / "config" / "processingjobconfig.json").write_text(json.dumps(config))
    hosts = {"current_host": "algo-1", "hosts": ["algo-1"]}
    (ml / "config" / "resourceconfig.json").write_text(json.dumps(hosts))


def _place(path: str, ml: Path) -> Path:
    """Where a path of the container is here; JobFailed for one that leads out of it."""
    inside = Path(os.path.normpath(path))
    if not inside.is_relative_to(f"{ML}/processing"):
        raise JobFailed(f"ClientError: LocalPath must be below {ML}/processing, not {path}.")
    return ml / inside.relative_to(ML)


def _fetch(source: dict, ml: Path) -> None:
    """Everything below a prefix, or one object, to its folder."""
    bucket, prefix = split_url(source["S3Uri"])
    target = _place(source["LocalPath"], ml)
    target.mkdir(parents=True, exist_ok=True)
    folder = prefix if prefix.endswith("/") else f"{prefix}/"
    found = 0
    pages = client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    for page in pages:
        for item in page.get("Contents", []):
            key = item["Key"]
            if key.endswith("/") or not (key == prefix or key.startswith(folder)):
                continue
            name = key.removeprefix(folder) if key != prefix else key.rpartition("/")[2]
            path = target / name
            if not Path(os.path.normpath(path)).is_relative_to(target):
                raise JobFailed(f"ClientError: {bucket}/{key} would leave {source['LocalPath']}.")
            path.parent.mkdir(parents=True, exist_ok=True)
            client("s3").download_file(bucket, key, str(path))
            if source.get("S3CompressionType") == "Gzip":
                _inflate(path)
            found += 1
    if not found:
        raise JobFailed(f"ClientError: no objects were found under {source['S3Uri']}.")


def _inflate(path: Path) -> None:
    packed = path.rename(path.with_name(f"{path.name}.packed"))
    try:
        with gzip.open(packed) as source, open(path, "wb") as target:
            shutil.copyfileobj(source, target)
    except (gzip.BadGzipFile, EOFError) as error:
        raise JobFailed(f"ClientError: {path.name} is no whole gzip file: {error}.") from None
    packed.unlink()


def _run(
    job: dict, request: dict, ml: Path, command: list[str], variables: dict[str, str]
) -> tuple[int, bool]:
    """The command's exit code, and whether it ended in time."""
    python = str(Path(sys.executable).parent)
    given = environment() | job["aws"] | variables
    given["PATH"] = f"{python}{os.pathsep}{given.get('PATH', os.defpath)}"
    given |= {"HOME": str(ml), "TMPDIR": str(ml), "OMP_NUM_THREADS": "1"}
    seconds = request.get("StoppingCondition", {}).get("MaxRuntimeInSeconds", USUAL_SECONDS)
    ports = tuple(urlsplit(job["aws"][name]).port for name in ADDRESSES)
    try:
        running = subprocess.Popen(
            command, cwd=ml, env=given, stdin=subprocess.DEVNULL,
            preexec_fn=lambda: confine({ml: WORK}, file=RLIM_INFINITY, ports=ports),
        )  # fmt: skip
    except OSError as error:
        raise JobFailed(f"AlgorithmError: {command[0]} cannot be started: {error}.") from None
    try:
        return running.wait(seconds), True
    except subprocess.TimeoutExpired:
        running.kill()
        return running.wait(), False


def _send(output: dict, ml: Path) -> None:
    bucket, prefix = split_url(output["S3Uri"].rstrip("/"))
    folder = _place(output["LocalPath"], ml)
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file():  # a link may lead anywhere
            continue
        key = "/".join(filter(None, [prefix, path.relative_to(folder).as_posix()]))
        client("s3").upload_file(str(path), bucket, key)


def _message(ml: Path) -> str | None:
    path = ml / "output" / "message"
    if path.is_symlink() or not path.is_file():
        return None
    return path.read_bytes()[: MESSAGE_LENGTH * 4].decode(errors="replace")[:MESSAGE_LENGTH].strip()
