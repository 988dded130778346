"""Where a repeat is measured: a folder, models to serve, rows to ask about, a sandbox."""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import boto3
import joblib
import numpy as np

from candidates.htru2 import load
from clients.api import IN_PROGRESS, IN_SERVICE, ask, status_of, verdict
from clients.payloads import REALTIME, load_payload
from clients.target import Target
from common import ROOT
from common.errors import UserError
from common.files import ARCHIVE, CARD, CODE, JOBLIB, PREPARED
from common.params import load_params
from learning import estimators
from orchestrator.contract import PROVISION_PATH
from orchestrator.sandbox.hosting.archive import unpack
from scoring.packing import pack

DEFAULT, FOREST = "default", "RF(10)"
ENDPOINT = "sandbox endpoint"  # how an endpoint's process is titled


@dataclass(frozen=True)
class Place:
    folder: Path  # empty at first, and removed afterwards
    seconds: float  # of load for each figure

    @cached_property
    def rows(self) -> np.ndarray:
        """Candidates to ask about, (n, 8): the hold-out."""
        return load(PREPARED / "test.csv")[0]

    @cached_property
    def row(self) -> bytes:
        """One of them as CSV."""
        return (",".join(map(repr, self.rows[0].tolist())) + "\n").encode()

    @cached_property
    def archives(self) -> dict[str, Path]:
        """Packages by model: the trained one, and the original project's random forest."""
        features, classes = load(PREPARED / "train.csv")
        forest = estimators.fit(
            estimators.build(load_params()["train"], "random_forest"), features, classes
        )
        buffer = io.BytesIO()
        joblib.dump(forest, buffer)
        path = self.folder / "forest.tar.gz"
        card = CARD.read_bytes()
        files = {"model_pulsar.joblib": buffer.getvalue(), "model.json": card}
        path.write_bytes(pack(files | {name: path.read_bytes() for name, path in CODE.items()}))
        return {DEFAULT: ARCHIVE, FOREST: path}

    @cached_property
    def models(self) -> dict[str, Path]:
        """The same, unpacked."""
        folders = {name: self.folder / f"model-{name}" for name in self.archives}
        for name, folder in folders.items():
            unpack(self.archives[name], folder)
        return folders

    def probability(self, name: str) -> float:
        """What scikit-learn itself says about `row`."""
        estimator = joblib.load(self.models[name] / JOBLIB.name)
        return float(estimator.predict_proba(self.rows[:1])[0, 1])


class Sandbox:
    """A sandbox apart from the user's."""

    def __init__(self, folder: Path) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        self._environment = kept | {"SANDBOX_DIR": str(folder), "TARGET": "local"}
        self.pid = json.loads(self.script("sandbox", "up", "--json"))["pid"]
        variables = json.loads(self.script("sandbox", "env", "--json"))
        session = boto3.Session(
            variables["AWS_ACCESS_KEY_ID"],
            variables["AWS_SECRET_ACCESS_KEY"],
            region_name=variables["AWS_DEFAULT_REGION"],
        )
        self.target = Target(
            variables["ORCHESTRATOR_URL"], variables["ASSETS_BUCKET"], session,
            variables["AWS_ENDPOINT_URL"], variables["AWS_ENDPOINT_URL_S3"],
            self._environment | variables,
        )  # fmt: skip

    def script(self, name: str, *arguments: str) -> str:
        """Run a script in it as a user does; its standard output."""
        return command(sys.executable, f"scripts/{name}.py", *arguments, env=self._environment)

    def upload(self, archive: Path, key: str) -> None:
        self.target.client("s3").upload_file(str(archive), self.target.bucket, key)

    def deploy(self, name: str, key: str) -> str:
        """Provision a pipeline called `name` from an uploaded package; its id, once in service."""
        payload = load_payload(REALTIME, self.target.bucket) | {
            "model_name": name,
            "model_artifact_location": key,
            "endpoint_name": name,
            "data_capture_location": f"{self.target.bucket}/{name}/datacapture",
        }
        pipeline = ask(self.target, PROVISION_PATH, payload)["pipeline_id"]
        while (state := verdict(status_of(self.target, pipeline))) == IN_PROGRESS:
            time.sleep(0.02)
        if state != IN_SERVICE:
            raise UserError(f"the pipeline {name} failed", f"scripts/status.py --id {pipeline}")
        return pipeline

    def memory(self) -> dict[str, float]:
        """MiB of everything but endpoints, of the store alone, of an endpoint (the mean)."""
        sizes = [(title, _memory(pid)) for pid, title in processes(self.pid).items()]
        endpoints = [size for title, size in sizes if ENDPOINT in title]
        figures = {
            "sandbox, MiB": sum(size for title, size in sizes if ENDPOINT not in title),
            "  its store, MiB": sum(size for title, size in sizes if "weed" in title),
        }
        return figures | ({"an endpoint, MiB": float(np.mean(endpoints))} if endpoints else {})


def _memory(pid: int) -> float:
    """A process's MiB: its share of what is shared, where the kernel tells (Linux), else all."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return int(rollup.split("\nPss:")[1].split()[0]) / 1024
    except OSError:
        return int(command("ps", "-o", "rss=", "-p", str(pid))) / 1024


def processes(root: int) -> dict[int, str]:
    """A process and all that descends from it, with their titles."""
    table = [
        line.split(None, 2) for line in command("ps", "-axwwo", "pid=,ppid=,args=").splitlines()
    ]
    found = {int(pid): title for pid, _, title in table if int(pid) == root}
    while more := {
        int(pid): title
        for pid, parent, title in table
        if int(parent) in found and int(pid) not in found
    }:
        found |= more
    return found


@contextmanager
def sandbox(folder: Path) -> Iterator[Sandbox]:
    """A running sandbox; what happens in it is gone afterwards with the folder."""
    running = Sandbox(folder)
    try:
        yield running
    finally:
        running.script("sandbox", "down")


def command(*arguments: str, env: dict[str, str] | None = None) -> str:
    """Run a command in the checkout; its standard output, or UserError with what it said."""
    done = subprocess.run(arguments, cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(f"{' '.join(arguments)} failed: {last}")
    return done.stdout
