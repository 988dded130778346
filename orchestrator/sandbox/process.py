"""One endpoint's process, as the sandbox holds it; `serve.py` is what runs inside.

Importing scikit-learn takes a second and 130 MB. A process that has done so once is there to
be forked (multiprocessing's fork server): an endpoint starts at once, and the memory of what
was imported is shared by all of them.
"""

import contextlib
import json
import os
import select
import sys
from multiprocessing import forkserver, get_context
from multiprocessing.connection import Connection
from pathlib import Path

from orchestrator.sandbox.errors import ResourceFailed

START_SECONDS = 180
DRAIN_SECONDS = 65  # SageMaker gives an invocation 60

FORKS = get_context("forkserver")


def warm_up() -> None:
    """Start the process that the others are forked from; it imports while we go on.

    It keeps the environment of this moment: before there are credentials in it.
    """
    # numpy on macOS may not survive a fork: there, every process imports for itself.
    FORKS.set_forkserver_preload(["orchestrator.sandbox.warm"] if sys.platform == "linux" else [])
    forkserver.ensure_running()


def _serve(job: dict, environment: dict[str, str], log: str, line: Connection) -> None:
    """What the forked process does. The import is here, for the sandbox does without numpy."""
    from orchestrator.sandbox import serve

    serve.main(job, environment, log, line)


class Instance:
    """A running process; whoever holds it must `stop` it."""

    def __init__(self, job: dict, log_path: Path) -> None:
        """Start the process for a job, which `serve.run` describes; ResourceFailed if it cannot."""
        self.config = job["config"]
        self.variant = job["variant"]
        self.socket = job["socket"]
        self.requests = 0  # being answered right now
        self._log_path = log_path
        # The model's code gets the environment it was given, and none of our credentials.
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        environment = inherited | job["environment"]
        # The process says on this line when it is ready, and ends when our end is closed, be it
        # by our own death: an endpoint never outlives the sandbox.
        self._line, theirs = FORKS.Pipe()
        self._process = FORKS.Process(target=_serve, args=(job, environment, str(log_path), theirs))
        try:
            self._process.start()
        except (OSError, EOFError) as error:
            raise ResourceFailed(f"The process cannot be started: {error}") from None
        finally:
            theirs.close()
        self._stopped = False

    @property
    def alive(self) -> bool:
        if self._stopped:
            return False
        end = select.poll()  # a new one each time: several threads ask, and must not share it
        end.register(self._process.sentinel, select.POLLIN)
        return not end.poll(0)

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Raises ResourceFailed with the reason when the process cannot serve."""
        if not self._line.poll(START_SECONDS):
            self._process.kill()
        try:
            news = json.loads(self._line.recv_bytes())
        except (EOFError, ConnectionError):
            self.stop()
            tail = self._log_path.read_text(errors="replace").strip().splitlines()
            last = f": {tail[-1]}" if tail else ""
            raise ResourceFailed(
                f"The process ended with exit code {self._process.exitcode} before it was "
                f"ready{last}"
            ) from None
        if "failed" in news:
            self.stop()
            raise ResourceFailed(news["failed"])

    def stop(self) -> None:
        """Let the process finish its requests and its capture file, then see it end."""
        self._line.close()
        self._process.join(DRAIN_SECONDS)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        self._stopped = True
        with contextlib.suppress(OSError):
            os.unlink(self.socket)
