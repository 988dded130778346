"""Jobs: work that has an end. One queue for all kinds, so that the machine stays usable.

A job is a row of its kind's table from the moment it is created until somebody wipes the sandbox. One
thread carries jobs out, one after another, in the order in which they came. The work is done by a
process of its own (transform.py, processing.py), which gives way to everything else; its line
(children.py) tells how far it is and how it has ended.

**Who changes a job's state.** Its creation writes InProgress and StopJob writes Stopping; everything
else is written by the queue's thread.

The sandbox may be killed at any moment: the row still says InProgress, and the next sandbox ends what
runs of the job and begins it again. A job can be begun again because its outputs stand whole or not at
all. A process that dies without a word is begun again, too, so often.
"""

import contextlib
import logging
import os
import threading
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from orchestrator.sandbox import children
from orchestrator.sandbox.children import Child, ChildFailed, socket_of
from orchestrator.sandbox.hosting import models, process
from orchestrator.sandbox.jobs import limits
from orchestrator.sandbox.jobs.work import AGAIN, FAILED, JobFailed
from orchestrator.sandbox.nursery import CannotFork, Nursery
from orchestrator.sandbox.places import Places
from orchestrator.sandbox.state import State, now

log = logging.getLogger(__name__)

TRANSFORM, PROCESSING = "transform-job", "processing-job"
TABLES = {TRANSFORM: "transform_jobs", PROCESSING: "processing_jobs"}
GROUPS = {TRANSFORM: "TransformJobs", PROCESSING: "ProcessingJobs"}
MODULES = {
    TRANSFORM: "orchestrator.sandbox.jobs.transform",
    PROCESSING: "orchestrator.sandbox.jobs.processing",
}
ATTEMPTS = 3  # at a job whose process, or what it needs, breaks
PAUSE_SECONDS = 1  # before the next of them
CLIENTS = (
    "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
    "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "NO_PROXY",
    "ACCOUNT_ID",
)  # fmt: skip


class Cancelled(Exception):
    """The job is no longer wanted, or the sandbox ends."""


@dataclass(frozen=True)
class Job:
    kind: str
    row: dict

    @property
    def name(self) -> str:
        return self.row["name"]


class Queue:
    def __init__(
        self, state: State, places: Places, nursery: Nursery, commands: dict[str, str]
    ) -> None:
        """`commands` maps a custom image's URI to the command that stands for it."""
        self._state = state
        self._places = places
        self._nursery = nursery
        self._commands = commands
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Take up what another sandbox has left: once, whatever of it still runs."""
        for child in children.adopt_all("job"):
            child.kill()
        self._thread.start()

    def wake(self) -> None:
        """There is a new job, or a new wish."""
        self._wake.set()

    def close(self) -> None:
        """End what runs; the next sandbox begins it again."""
        self._closing.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    # -- the thread --------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._wake.clear()
                job = self._next()
                if job is None:
                    self._wake.wait()
                else:
                    self._carry_out(job)
            except Cancelled:
                pass
            except Exception:  # the disk is full, say: the job is still to be done
                log.exception("the queue")
                self._closing.wait(PAUSE_SECONDS)

    def _next(self) -> Job | None:
        waiting = [
            Job(kind, row)
            for kind, table in TABLES.items()
            for status in ("Stopping", "InProgress")
            for row in self._state.rows(table, status=status)
        ]
        waiting.sort(key=lambda job: (job.row["status"] != "Stopping", job.row["created"]))
        return waiting[0] if waiting else None

    def _carry_out(self, job: Job) -> None:
        self._check(job)
        self._write(job, started=job.row["started"] or now())
        for attempt in range(1, ATTEMPTS + 1):
            if attempt > 1:
                self._closing.wait(PAUSE_SECONDS)
                self._check(job)
            try:
                outcome = self._attempt(job)
            except (ClientError, BotoCoreError, OSError) as error:
                outcome = _unsaid(AGAIN, f"InternalServerError: {error}")
            if outcome["status"] != AGAIN:
                break
            log.warning("the job %s is begun again: %s", job.name, outcome["reason"])
        status = FAILED if outcome["status"] == AGAIN else outcome["status"]
        self._end(job, status, reason=outcome["reason"], message=outcome["message"])

    def _attempt(self, job: Job) -> dict:
        """Do the work in a process; its outcome."""
        name = f"job-{uuid.uuid4().hex[:12]}"
        work = {
            "name": job.name, "title": job.name, "process": name, "folder": os.getcwd(),
            "log": str(self._places.job_log(GROUPS[job.kind], job.name, name)),
            "aws": {key: os.environ[key] for key in CLIENTS},
            "request": job.row["request"], "arn": job.row["arn"],
        }  # fmt: skip
        try:
            with contextlib.ExitStack() as serving:
                if job.kind == TRANSFORM:
                    work |= self._serve(job, work["log"], serving)
                return self._watch(job, self._begin(job, name, work))
        except JobFailed as error:
            return _unsaid(FAILED, str(error))
        except CannotFork as error:
            return _unsaid(AGAIN, f"InternalServerError: {error}")
        except ChildFailed as error:
            self._check(job)
            return _unsaid(FAILED, f"AlgorithmError: {error}")

    def _begin(self, job: Job, name: str, work: dict) -> Child:
        children.make_folder(name)
        try:
            exit_code = self._nursery.fork(MODULES[job.kind], work)
        except CannotFork:
            children.remove_folder(name)
            raise
        return children.first_contact(name, lambda: exit_code() is not None)

    def _watch(self, job: Job, child: Child) -> dict:
        """Wait for a job's process; its last word, AGAIN when there was none."""
        try:
            while "outcome" not in child.about:
                if not child.alive:
                    return _unsaid(AGAIN, "InternalServerError: the job's process was killed.")
                child.wait(0.2)
                self._check(job)
            return child.about["outcome"]
        finally:
            child.kill()

    def _serve(self, job: Job, log_file: str, serving: contextlib.ExitStack) -> dict:
        """Start the processes that serve a transform job's model, until `serving` ends: one for each
        that are asked at once, as far as there are cores. Their names and the limits."""
        request = job.row["request"]
        model = self._state.row("models", name=request["ModelName"])
        if model is None:
            raise ChildFailed(f'Could not find model "{request["ModelName"]}".')
        container = model["request"]["PrimaryContainer"]
        folder = models.unpacked(self._places, model["name"], container["ModelDataUrl"])
        command = self._commands.get(container["Image"])
        told = {
            "endpoint": job.name, "config": None, "variant": None, "model_dir": str(folder),
            "image": container["Image"], "command": command,
            "environment": container.get("Environment", {})
            | request.get("Environment", {}) | batch_environment(request),
            "capture": {}, "batch": True,
        }  # fmt: skip

        def start() -> str:
            # As an endpoint's, so that the fleet ends it when it is found without a route.
            name = f"endpoint-{uuid.uuid4().hex[:12]}"
            own = told | {"spool": str(self._places.process(name) / "spool")}
            log_to, unwanted = Path(log_file), lambda: self._is_unwanted(job)
            child = process.start(self._nursery, name, own, log_to, unwanted)
            serving.callback(child.kill)
            return name

        names = [start()]
        asked = limits.asked(request, socket_of(names[0]))
        if command is None:  # that is a server of the user's, and sees to its own
            names += [start() for _ in range(min(asked.concurrent, os.cpu_count() or 1) - 1)]
        return {"models": names, "limits": asdict(asked)}

    # -- the row -----------------------------------------------------------------------

    def _is_unwanted(self, job: Job) -> bool:
        row = self._state.row(TABLES[job.kind], name=job.name)
        return self._closing.is_set() or row is None or row["status"] == "Stopping"

    def _check(self, job: Job) -> None:
        """Cancelled when the job is not to go on; one that was told to stop has stopped then."""
        if not self._is_unwanted(job):
            return
        if not self._closing.is_set():
            self._end(job, "Stopped")
        raise Cancelled

    def _end(
        self, job: Job, status: str, reason: str | None = None, message: str | None = None
    ) -> None:
        self._write(job, status=status, reason=reason, message=message, ended=now())
        log.info("the job %s: %s%s", job.name, status, f", {reason}" if reason else "")

    def _write(self, job: Job, **changes: object) -> None:
        self._state.update(TABLES[job.kind], {"name": job.name}, updated=now(), **changes)


def _unsaid(status: str, reason: str) -> dict:
    """The outcome of a job whose process has not told one."""
    return {"status": status, "reason": reason, "message": None}


def batch_environment(request: dict) -> dict[str, str]:
    """What the container of a transform job is told."""
    strategy = {"MultiRecord": "MULTI_RECORD", "SingleRecord": "SINGLE_RECORD"}
    told = {
        "SAGEMAKER_MAX_PAYLOAD_IN_MB": request.get("MaxPayloadInMB"),
        "SAGEMAKER_BATCH_STRATEGY": strategy.get(request.get("BatchStrategy")),
        "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": request.get("MaxConcurrentTransforms"),
    }
    given = {key: str(value) for key, value in told.items() if value is not None}
    return {"SAGEMAKER_BATCH": "true"} | given
