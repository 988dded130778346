"""One endpoint's process, as the sandbox starts it; `serve.py` is what runs inside."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

from orchestrator.sandbox import children
from orchestrator.sandbox.children import Child, ChildFailed
from orchestrator.sandbox.nursery import CannotFork, Nursery

START_SECONDS = 50  # with all that is around it, a minute
SERVE = "orchestrator.sandbox.hosting.serve"
END_SECONDS = 2  # from the last word of a process that fails to its end
TAIL_BYTES = 65536  # of a log, which may be a GiB
LINE_LENGTH = 200
TRACEBACK = "Traceback (most recent call last):"


def start(
    nursery: Nursery, name: str, job: dict, log: Path,
    cancelled: Callable[[], bool] = lambda: False,
) -> Child:  # fmt: skip
    """Start the process for a job, which `serve.run` describes, and wait until it is ready.

    It listens where `children.socket_of` says. ChildFailed says why it cannot serve, in words for the
    endpoint's FailureReason.
    """
    # The model's code gets the environment it was given, and none of the user's.
    variables = children.environment() | job["environment"]
    children.make_folder(name)
    job = job | {"folder": os.getcwd(), "log": str(log), "name": name}
    child, before = None, log.stat().st_size if log.exists() else 0
    try:
        exit_code = nursery.fork(SERVE, job, variables)
        child = children.first_contact(name, lambda: exit_code() is not None)
        child.wait_until_ready(START_SECONDS, cancelled)
    except CannotFork:
        children.remove_folder(name)
        raise
    except ChildFailed as error:
        reason, printed = str(error), _printed(log, before)
        if child is None or child.died:
            reason = _end(exit_code) or reason
        elif "failed" in child.about:  # that says what the traceback does
            printed = printed.partition(TRACEBACK)[0]
        last = printed.strip().splitlines()[-1:]
        said = [f"The last line of its log: {line[:LINE_LENGTH]}" for line in last]
        raise ChildFailed(" ".join([reason, *said])) from error
    return child


def _end(exit_code: Callable[[], int | None]) -> str | None:
    """How a process has ended; None for one that has not, or nobody knows."""
    code = children.until(exit_code, END_SECONDS)
    if code is None:
        return None
    name = f" ({signal.strsignal(-code)})" if code < 0 else ""
    return f"The process ended with exit code {code}{name} before it was ready."


def _printed(log: Path, since: int) -> str:
    """What has come to a log since it had so many bytes; the end of it, when that is much."""
    if not log.exists():
        return ""
    with open(log, "rb") as file:
        file.seek(max(since, log.stat().st_size - TAIL_BYTES))
        return file.read(TAIL_BYTES).decode(errors="replace")
