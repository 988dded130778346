"""What the sandbox's other processes are forked from, on both sides.

    python -m orchestrator.sandbox.nursery FOLDER LISTENER…     started by the sandbox, ends with it

Importing scikit-learn takes a second and a hundred MB, a web server a quarter of that. A process that
has done so once is there to be forked: the fronts and the store when it has the one, endpoints when it
has both. They start at once, and the memory of what was imported is shared by all of them. It has a
single thread, for a fork takes along no other; it reads a line of JSON for each process that is
wanted, and writes one when that has begun, and one when it has ended.

What any of them has started falls to the nursery when its parent dies, and ends then: a model's own
children do not outlive it.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from setproctitle import setproctitle

from orchestrator.sandbox import hop, web  # noqa: F401 - to be shared
from orchestrator.sandbox.children import ROOT, ChildFailed, environment

POLL_SECONDS = 0.1
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class CannotFork(ChildFailed):
    """The process was not even begun, which is no fault of the model's."""


# -- in the sandbox -------------------------------------------------------------------


class Nursery:
    """The process to fork from, started again when it has died."""

    def __init__(self, listeners: list[socket.socket]) -> None:
        """Each process may have one of the listeners."""
        self._listeners = [listener.fileno() for listener in listeners]
        self._lock = threading.Lock()
        self._news = threading.Condition()
        self._begun: dict[int, int] = {}  # the pids of births that have come about, by number
        self._ended: dict[int, int] = {}  # their exit codes
        self._births = 0
        self._warm = False
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.sandbox.nursery", os.getcwd(),
             *map(str, self._listeners)],
            cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            pass_fds=self._listeners, start_new_session=True,
        )  # fmt: skip
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()

    def _listen(self, process: subprocess.Popen) -> None:
        with process.stdout as lines:
            for line in lines:
                number, pid, exit_code = json.loads(line)
                with self._news:
                    if exit_code is None:
                        self._begun[number] = pid
                    else:
                        self._ended[number] = exit_code
                    self._news.notify_all()
        process.wait()
        with self._news:
            self._news.notify_all()

    def warm_up(self) -> None:
        """Have it import what endpoints need; births wait meanwhile."""
        with self._lock:
            self._warm = True
            self._write("warm")

    def fork(
        self, module: str, *arguments: object, listener: socket.socket | None = None
    ) -> Callable[[], int | None]:
        """Begin a process that calls `main` of a module; what tells its exit code, None while it runs.

        A listener's number is the last argument of `main`. Raises CannotFork.
        """
        own = [] if listener is None else [listener.fileno()]
        with self._lock:
            died = self._process.poll() is not None
            if died:
                with contextlib.suppress(OSError):
                    self._process.stdin.close()
                self._start()
            process, number = self._process, self._births
            self._births += 1
            self._write([number, module, [*arguments, *own], own])
            if died and self._warm:
                self._write("warm")
        with self._news:
            while number not in self._begun:
                if process.poll() is not None:
                    raise CannotFork("The process cannot be started: its parent was killed.")
                self._news.wait(POLL_SECONDS)
            pid = self._begun.pop(number)

        def exit_code() -> int | None:
            code = self._ended.get(number)
            if code is None and process.poll() is not None and not _is_alive(pid):
                return -signal.SIGKILL  # nobody can tell any more
            return code

        return exit_code

    def _write(self, message: object) -> None:
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise CannotFork(f"The process cannot be started: {error}") from None

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except OSError:  # no /proc here
        return True
    return state != "Z"


# -- in the process itself ------------------------------------------------------------


def warm_up() -> None:
    """Import what endpoints need, in a way that forks share it."""
    # One OpenMP thread per process; read once, with the import (pipelines/models.py).
    os.environ["OMP_NUM_THREADS"] = "1"
    # numpy on macOS may not survive a fork: there, every process imports for itself.
    if sys.platform == "linux":
        # scikit-learn imports pandas where there is one, for a type check: half a second, and 60 MB
        # that few models need. Those that do import it themselves.
        sys.modules["pandas"] = None
        import joblib  # noqa: F401
        import sklearn.ensemble
        import sklearn.linear_model
        import sklearn.neural_network
        import sklearn.pipeline
        import sklearn.preprocessing  # noqa: F401

        import orchestrator.sandbox.hosting.serve  # noqa: F401

        del sys.modules["pandas"]
    freeze()


def freeze() -> None:
    """Nothing there is looked at again by the garbage collector, which would write to it, and have
    every fork keep a copy of its own."""
    gc.collect()
    gc.freeze()


def main() -> None:
    setproctitle(f"sandbox nursery {sys.argv[1]}")
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    listeners = [int(number) for number in sys.argv[2:]]
    freeze()
    running: dict[int, int] = {}  # birth's number, by pid
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    pending = b""
    while True:
        ready, _, _ = select.select([sys.stdin, wake], [], [])
        if wake in ready:
            os.read(wake, 4096)
            _reap(running)
        if sys.stdin not in ready:
            continue
        data = os.read(sys.stdin.fileno(), 65536)
        if not data:
            return
        *lines, pending = (pending + data).split(b"\n")
        for message in map(json.loads, lines):
            if message == "warm":
                warm_up()
                continue
            number, module, arguments, own = message
            pid = os.fork()
            if pid == 0:
                others = [listener for listener in listeners if listener not in own]
                _begin(module, arguments, [wake, woken, *others])
            running[pid] = number
            _say(number, pid, None)


def _reap(running: dict[int, int]) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid in running:
                _say(running.pop(pid), pid, os.waitstatus_to_exitcode(status))
    for orphan in _children() - running.keys():
        with contextlib.suppress(ProcessLookupError):
            os.kill(orphan, signal.SIGKILL)


def _children() -> set[int]:
    """The processes whose parent this one is, where the kernel tells."""
    listing = Path(f"/proc/self/task/{os.getpid()}/children")
    return set(map(int, listing.read_text().split())) if listing.exists() else set()


def _say(number: int, pid: int, exit_code: int | None) -> None:
    os.write(sys.stdout.fileno(), f"{json.dumps([number, pid, exit_code])}\n".encode())


def _begin(module: str, arguments: list, inherited: list[int]) -> None:
    """What the forked process does; it never returns."""
    code: int | None = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in inherited:
            os.close(number)
        # What the nursery hears and says is not for it.
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, sys.stdin.fileno())
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        os.close(nothing)
        os.setsid()  # what it starts is found by the group
        code = importlib.import_module(module).main(*arguments) or 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
