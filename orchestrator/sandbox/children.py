"""The sandbox's long-lived processes, and the line by which it holds them.

The fronts, the store and the endpoints go on answering when the sandbox itself is killed. Each of
them listens on a Unix socket of its own, its line. The sandbox connects, hears who it is and how it
is doing, and may tell it to stop. A process whose line nobody holds waits for `ORPHAN_SECONDS`; a
sandbox that starts meanwhile takes it over, otherwise it ends.

    Line     the process's own end
    Child    the sandbox's end
    Kept     a child that is always there: started again whenever it ends

Each has a folder of its own, `run/<name>/`, with its line and whatever else it needs while it runs;
whoever sees the process end removes it. Paths are relative to the sandbox's folder, where all these
processes are: the path of a Unix socket is limited to some 100 bytes.
"""

import array
import contextlib
import json
import logging
import os
import select
import shutil
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.sandbox.places import Places
from orchestrator.version import code_version

log = logging.getLogger(__name__)

ORPHAN_SECONDS = 10
FIRST_SECONDS = 60  # until somebody takes the line for the first time
END_SECONDS = 75  # for a process that has been told to stop, before it is killed
STOP = b"stop\n"
MESSAGE_BYTES = 65536
ROOT = Path(__file__).resolve().parents[2]


class ChildFailed(Exception):
    """A process could not be started, in its own words."""


# -- in the process -------------------------------------------------------------------


class Line:
    """Tells whoever holds it about this process, and ends the process when it is told to stop or
    nobody holds it any more."""

    def __init__(self, name: str, about: dict, listeners: list[socket.socket] = ()) -> None:
        """`name` is the process's own, `about` is what the holder hears first; `listeners` are handed
        over to it as well, so that their ports stay open when this process ends."""
        self._about = about | {"code": code_version()}
        self._listeners = [listener.fileno() for listener in listeners]
        self._lock = threading.Lock()
        self._holder: socket.socket | None = None
        self._held = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX)
        # Listening under another name first: whoever sees the path can connect.
        path = line_of(name)
        self._socket.bind(path + ".new")
        self._socket.listen(1)
        os.rename(path + ".new", path)
        threading.Thread(target=self._wait, daemon=True).start()

    def tell(self, **news: object) -> None:
        """Tell the holder, and every later one."""
        with self._lock:
            self._about |= news
            if self._holder is not None:
                with contextlib.suppress(OSError):
                    self._send(self._holder, news)

    def wait_until_heard(self, seconds: float) -> None:
        """Give the holder time to come, and to read the last word."""
        self._held.wait(seconds)
        time.sleep(0.1)

    def _send(self, holder: socket.socket, news: dict, listeners: list[int] = ()) -> None:
        data = json.dumps(news).encode() + b"\n"
        rights = array.array("i", listeners)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if listeners else []
        holder.sendmsg([data], ancillary)

    def _wait(self) -> None:
        self._socket.settimeout(FIRST_SECONDS)
        told_to_stop = False
        while not told_to_stop:
            try:
                holder, _ = self._socket.accept()
            except OSError:  # nobody came in time
                break
            holder.settimeout(None)
            with self._lock:
                self._holder = holder
                with contextlib.suppress(OSError):
                    self._send(holder, self._about, self._listeners)
                    self._held.set()
            with contextlib.suppress(OSError):
                while data := holder.recv(64):
                    if STOP in data:
                        told_to_stop = True
                        break
            with self._lock:
                self._holder = None
            self._socket.settimeout(ORPHAN_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(END_SECONDS)
        os._exit(1)


# -- in the sandbox -------------------------------------------------------------------


class Child:
    """A process of the sandbox's, held by its line."""

    def __init__(self, name: str, connection: socket.socket) -> None:
        """The first message is waited for; ChildFailed when there is none."""
        self.name = name
        self._folder = Places(Path()).process(name).absolute()
        self._connection = connection
        self._buffer = b""
        self._lock = threading.RLock()
        self.about: dict = {}
        self.listeners: list[socket.socket] = []
        self.ended = False
        self.died = False  # before it was ready, without a word
        self.pid = _peer(connection)
        try:
            # The line alone would not do: a model's own children may hold it open.
            self._death = os.pidfd_open(self.pid)
        except (AttributeError, OSError):
            self._death = None
        self._pump(10)
        if not self.about:
            self.kill()
            raise ChildFailed("The process says nothing.")

    @classmethod
    def connect(cls, name: str) -> "Child":
        """Take over the process of that name; OSError when nobody listens."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(line_of(name))
        except OSError:
            connection.close()
            raise
        return cls(name, connection)

    @property
    def alive(self) -> bool:
        self._pump(0)
        return not self.ended

    def wait(self, seconds: float) -> None:
        """Wait for news of the process, but not longer than that."""
        self._pump(seconds)

    def filenos(self) -> list[int]:
        """What becomes readable when there is news of the process."""
        return [self._connection.fileno()] + ([] if self._death is None else [self._death])

    def wait_until_ready(
        self, seconds: float, cancelled: Callable[[], bool] = lambda: False
    ) -> None:
        """Raises ChildFailed with the reason when the process does not come up."""
        deadline = time.monotonic() + seconds
        while not self.about.get("ready"):
            if "failed" in self.about:
                reason = str(self.about["failed"])
            elif self.ended:
                self.died, reason = True, "The process ended before it was ready."
            elif cancelled():
                reason = "It is no longer wanted."
            elif time.monotonic() > deadline:
                doing = self.about.get("doing", "starting")
                reason = f"After {seconds:.0f} s the process was still {doing}."
            else:
                self._pump(0.1)
                continue
            self.kill()
            raise ChildFailed(reason)

    def stop(self, seconds: float = END_SECONDS) -> None:
        """Let the process finish what it has begun, then see it end."""
        with contextlib.suppress(OSError):
            self._connection.sendall(STOP)
        deadline = time.monotonic() + seconds
        while not self.ended and time.monotonic() < deadline:
            self._pump(0.1)
        self.kill()

    def kill(self) -> None:
        """End the process now, and whatever it has started: each leads a process group."""
        with self._lock:
            if self._connection.fileno() == -1:
                return
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self.ended = True
            self._connection.close()
            if self._death is not None:
                os.close(self._death)
                self._death = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def _pump(self, seconds: float) -> None:
        """Read what has come, waiting at most so long for anything to come."""
        with self._lock:
            if self.ended:
                return
            poll = select.poll()
            for number in self.filenos():
                poll.register(number, select.POLLIN)
            ready = {number for number, _ in poll.poll(seconds * 1000)}
            if self._connection.fileno() in ready:
                self._receive()
            elif self._death in ready:
                self.ended = True

    def _receive(self) -> None:
        try:
            data, numbers, _, _ = socket.recv_fds(self._connection, MESSAGE_BYTES, 4)
        except OSError:
            data, numbers = b"", []
        self.listeners += [socket.socket(fileno=number) for number in numbers]
        if not data:
            self.ended = True
            return
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError):
                news = json.loads(line)
                self.about |= news if isinstance(news, dict) else {}


def _peer(connection: socket.socket) -> int:
    """The process at the other end, from the kernel and not from its own words."""
    if sys.platform == "darwin":
        return struct.unpack("i", connection.getsockopt(0, 2, 4))[0]  # SOL_LOCAL, LOCAL_PEERPID
    return struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]


def make_folder(name: str) -> Path:
    """The own folder of a process that is about to be started."""
    folder = Places(Path()).process(name)
    folder.mkdir(mode=0o700)
    return folder


def remove_folder(name: str) -> None:
    shutil.rmtree(Places(Path()).process(name), ignore_errors=True)


def line_of(name: str) -> str:
    return str(Places(Path()).process(name) / "line")


def socket_of(name: str) -> str:
    """Where an endpoint's process answers, below the sandbox's folder."""
    return str(Places(Path()).process(name) / "sock")


def first_contact(name: str, has_ended: Callable[[], bool], seconds: float = 60) -> Child:
    """Take the line of a process that has just been started; when it cannot be, nothing stays."""
    deadline = time.monotonic() + seconds
    reason = f"The process said nothing within {seconds:.0f} s."
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            return Child.connect(name)
        if has_ended():
            reason = "The process ended before it could say why; see the log."
            break
        time.sleep(0.005)
    remove_folder(name)
    raise ChildFailed(reason)


def until(condition: Callable[[], object], seconds: float) -> object:
    """Wait for something that comes soon; what it is then, be it nothing."""
    deadline = time.monotonic() + seconds
    while (found := condition()) is None and time.monotonic() < deadline:
        time.sleep(0.005)
    return found


def environment() -> dict[str, str]:
    """What every process of the sandbox is given: none of the user's own settings or secrets."""
    kept = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV", "WEED")
    return {key: os.environ[key] for key in kept if key in os.environ} | {"PYTHONUNBUFFERED": "1"}


def adopt_all(kind: str) -> list[Child]:
    """Take over the processes of a kind, `run/<kind>-…`, that another sandbox has left running.

    Those that run other code than this one are stopped instead; of those that are no more, what
    they have left is removed.
    """
    found = []
    for folder in sorted(Path("run").glob(f"{kind}-*")):
        try:
            child = Child.connect(folder.name)
        except (OSError, ChildFailed):
            remove_folder(folder.name)
            continue
        if child.about.get("code") == code_version():
            found.append(child)
        else:
            log.info("process %d runs other code and is stopped", child.pid)
            child.stop()
    return found


class Kept:
    """A process that is always there, for as long as the sandbox runs."""

    def __init__(self, name: str, begin: Callable[[], Child], child: Child) -> None:
        """`child` is the first one; `begin` starts another and waits until it is ready."""
        self._name = name
        self._begin = begin
        self._child = child
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        while not self._closing.is_set():
            if self._child.alive:
                self._child.wait(0.2)
                continue
            log.warning("the %s died; it is started again", self._name)
            self._child.kill()
            try:
                self._child = self._begin()
            except Exception as error:
                log.error("the %s does not start: %s", self._name, error)
                self._closing.wait(1)

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._child.stop()
