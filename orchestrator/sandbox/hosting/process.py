"""One endpoint's process, as the sandbox starts it; `serve.py` is what runs inside."""

import os
from collections.abc import Callable
from pathlib import Path

from orchestrator.sandbox import children
from orchestrator.sandbox.children import Child, ChildFailed
from orchestrator.sandbox.nursery import CannotFork, Nursery

START_SECONDS = 180
SERVE = "orchestrator.sandbox.hosting.serve"
END_SECONDS = 2  # from the last word of a process that fails to its end


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
    child = None
    try:
        exit_code = nursery.fork(SERVE, job, variables)
        child = children.first_contact(name, lambda: exit_code() is not None)
        child.wait_until_ready(START_SECONDS, cancelled)
    except CannotFork:
        children.remove_folder(name)
        raise
    except ChildFailed as error:
        if child is not None and not child.died:
            raise
        raise ChildFailed(_last_words(exit_code, log)) from error
    return child


def _last_words(exit_code: Callable[[], int | None], log: Path) -> str:
    code = children.until(exit_code, END_SECONDS)
    last = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
    ended = f"The process ended with exit code {code} before it was ready"
    return ended + "".join(f": {line}" for line in last)
