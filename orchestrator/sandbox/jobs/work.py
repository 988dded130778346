"""A job's own process, on its inside: a log, modest manners, a line that tells how it goes.

What a kind of job does is a function beside this file, from the job and `tell` to an `Outcome`.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

from botocore.exceptions import BotoCoreError, ClientError
from setproctitle import setproctitle

from orchestrator.sandbox.children import Line, environment
from orchestrator.sandbox.hosting.manners import be_modest

log = logging.getLogger("job")

HEARD_SECONDS = 10  # for the last word to be read
REASON_LENGTH = 1024  # SageMaker's limit

COMPLETED, FAILED, AGAIN = "Completed", "Failed", "Again"


@dataclass(frozen=True)
class Outcome:
    """How a job has ended; AGAIN when something around it broke, and it is worth another try."""

    status: str
    reason: str | None = None  # of a failure
    message: str | None = None  # what the container has left in /opt/ml/output/message


class JobFailed(Exception):
    """The job cannot succeed; the text is its FailureReason."""


def run(job: dict, work: Callable[[dict, Callable[..., None]], Outcome]) -> int:
    """Do a job's work in this process, and tell the outcome on its line.

    The job: `name`, `title`, `process`, whose folder is its own, `folder`, the sandbox's, `log`,
    `aws`, the environment of the sandbox's clients, and what its kind needs.
    """
    log_file = os.open(job["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(log_file, stream.fileno())
        stream.reconfigure(line_buffering=True)
    os.close(log_file)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    logging.raiseExceptions = False  # a log that cannot be written is no reason to fail
    logging.getLogger("botocore").setLevel(logging.WARNING)
    setproctitle(f"sandbox job {job['title']} {job['folder']}")
    os.environ.clear()
    os.environ.update(environment() | job["aws"])
    os.chdir(job["folder"])
    be_modest()
    line = Line(job["process"], {"kind": "job", "job": job["title"]})
    try:
        outcome = work(job, line.tell)
    except JobFailed as error:
        outcome = Outcome(FAILED, str(error))
    except (ClientError, BotoCoreError, OSError) as error:
        outcome = _of_trouble(error)
    except Exception as error:
        log.exception("the job could not be done")
        outcome = Outcome(FAILED, f"InternalServerError: {error}")
    if outcome.reason:
        log.error("%s", outcome.reason)
        outcome = Outcome(outcome.status, outcome.reason[:REASON_LENGTH], outcome.message)
    line.tell(outcome=asdict(outcome))
    line.wait_until_heard(HEARD_SECONDS)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    return 0


def _of_trouble(error: Exception) -> Outcome:
    """What S3 or the disk has refused: for good, or just now."""
    status = 500
    if isinstance(error, ClientError):
        status = error.response["ResponseMetadata"].get("HTTPStatusCode", 500)
    if status < 500:
        return Outcome(FAILED, f"ClientError: {error}")
    log.exception("the job is interrupted")
    return Outcome(AGAIN, f"InternalServerError: {error}")
