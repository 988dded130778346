"""The sandbox: S3, CloudFormation, SageMaker and the orchestrator on this machine's loopback.

    python -m orchestrator.sandbox FOLDER PORT S3_PORT   (or: make sandbox)

FOLDER keeps everything: objects, models, stacks, captured data, logs, credentials. This process is
the control plane, and looks after the others:

    fronts      where requests come in, and predictions are handed on     front.py
    store       S3: SeaweedFS, with our gate in front of it                store/
    endpoints   one process each                                           hosting/
"""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import uvloop

from orchestrator.sandbox import children, connections, web
from orchestrator.sandbox.children import Child, ChildFailed, Kept
from orchestrator.sandbox.hosting import confinement
from orchestrator.sandbox.nursery import Nursery
from orchestrator.sandbox.places import (
    ACCOUNT,
    ASSETS_BUCKET,
    HANDLER,
    NEWS_TOPIC,
    REGION,
    ROLE,
    SPARE_BYTES,
    STAGE,
    NotOurs,
    Places,
    load_credentials,
    no_room,
    write_json,
)
from orchestrator.sandbox.state import State, now
from orchestrator.version import started_from

log = logging.getLogger("sandbox")

READY_SECONDS = 60
TAKEN_SECONDS = 3
FRONT, STORE = "orchestrator.sandbox.front", "orchestrator.sandbox.store.process"


def main() -> None:
    """Exit codes: 0 stopped, 1 it cannot run (the last line says why), 3 the folder is another
    sandbox's, 4 the port is taken, 5 the port for S3 is."""
    places = Places(Path(sys.argv[1]).resolve())
    ports = [int(number) for number in sys.argv[2:4]]
    commands = json.loads(os.environ.get("SANDBOX_COMMANDS", "{}"))
    version = started_from(commands)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.raiseExceptions = False  # a log that cannot be written is no reason to fail
    logging.getLogger("botocore").setLevel(logging.WARNING)
    os.umask(0o077)
    connections.raise_file_limit()  # the other processes inherit it
    try:
        places.make()
        lock = open(places.folder / "lock", "w")  # held until the process ends, however it ends
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever still answers is left to it: a sandbox that fails later takes them along.
        if shutil.disk_usage(places.folder).free < SPARE_BYTES:
            sys.exit(no_room(places.folder))
        os.chdir(places.folder)
        keys = load_credentials(places)
        state = State(places.folder / "state.db")
    except BlockingIOError:
        sys.exit(3)
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}")
    except NotOurs as error:
        away = error.file or places.folder
        sys.exit(f"{error}. Next: mv {away} {away}.old && make sandbox")
    fronts, stores = children.adopt_all("front"), children.adopt_all("store")
    listeners = []
    for found, port, code in zip((fronts, stores), ports, (4, 5), strict=True):
        listener = found[0].listeners[0] if found else _listen(port)
        if listener is None:
            sys.exit(code)
        listeners.append(listener)
    uvloop.run(run(places, keys, state, listeners, fronts, stores, commands, version))


def _listen(port: int) -> socket.socket | None:
    """A socket on the port; None when it is taken. What a killed sandbox has left behind may hold
    it for a moment longer."""
    deadline = time.monotonic() + TAKEN_SECONDS
    while True:
        try:
            return web.listener(port)
        except OSError:
            if time.monotonic() > deadline:
                return None
            time.sleep(0.05)


async def run(
    places: Places, keys: tuple[str, str], state: State, listeners: list[socket.socket],
    fronts: list[Child], stores: list[Child], commands: dict[str, str], version: dict[str, str],
) -> None:  # fmt: skip
    """Everything from the first process started to the last one stopped."""
    url, s3_url = (f"http://127.0.0.1:{listener.getsockname()[1]}" for listener in listeners)
    nursery = Nursery(listeners)
    # The store takes longest; what endpoints need, and this process's own modules, are imported
    # while it starts.
    store = Kind(nursery, "store", STORE, listeners[1], stores, 1)
    front = Kind(nursery, "front", FRONT, listeners[0], fronts, front_count())
    nursery.warm_up()
    os.environ |= {
        "AWS_ENDPOINT_URL": url,
        "AWS_ENDPOINT_URL_S3": s3_url,
        "AWS_ACCESS_KEY_ID": keys[0],
        "AWS_SECRET_ACCESS_KEY": keys[1],
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1",
        "ASSETS_BUCKET": ASSETS_BUCKET,
        "SAGEMAKER_ROLE_ARN": ROLE,
        "MONITOR_ROLE_ARN": ROLE,
        "SCHEDULER_ROLE_ARN": ROLE,
        "HANDLER_ARN": HANDLER,
        "API_URL": f"{url}{STAGE}/",
        "ACCOUNT_ID": ACCOUNT,
        "NOTIFICATIONS_TOPIC": NEWS_TOPIC,
    }
    from orchestrator.sandbox import server

    sandbox = server.Sandbox(places, keys, state, url, s3_url, nursery, commands)
    serving = await server.serve(sandbox)
    try:
        sandbox.start()
        await asyncio.gather(*(asyncio.to_thread(kind.keep) for kind in (store, front)))
        await asyncio.to_thread(sandbox.go_on)
        confined = confinement.in_force()
        where = {"url": url, "s3_url": s3_url, "pid": os.getpid(), "confined": confined}
        status = {"state": "running", **where, "since": now(), "started_from": version}
        write_json(places.status, status)
        _say_what_is_confined(confined)
        await serving
    except ChildFailed as error:
        sys.exit(str(error))
    finally:
        # Nothing new comes in; endpoints end; what they have captured goes to the store.
        await asyncio.to_thread(front.close)
        await asyncio.to_thread(sandbox.close)
        await asyncio.to_thread(store.close)
        stopped = {"state": "stopped", "url": url, "s3_url": s3_url, "since": now()}
        write_json(places.status, stopped)


def _say_what_is_confined(kinds: dict[str, bool]) -> None:
    if all(kinds.values()):
        log.info("models are confined: %s (docs/security.md)", ", ".join(kinds))
        return
    missing = ", ".join(kind for kind, there in kinds.items() if not there)
    log.warning("models are NOT confined (%s): serve only such as you trust", missing)


def front_count() -> int:
    """One front for every two cores: the endpoints need the others."""
    return max(1, (os.cpu_count() or 1) // 2)


class Kind:
    """So many processes of a kind: those that are found running, and others that are begun at once."""

    def __init__(
        self, nursery: Nursery, name: str, module: str, listener: socket.socket,
        found: list[Child], count: int,
    ) -> None:  # fmt: skip
        self._nursery, self._name, self._module = nursery, name, module
        self._listener = listener
        for child in found[count:]:
            child.stop()
        self._births = [lambda child=child: child for child in found[:count]]
        self._births += [self._begin() for _ in range(count - len(self._births))]
        self._kept: list[Kept] = []

    def keep(self) -> None:
        """Wait until they are ready, and keep them going; ChildFailed when they do not come up."""
        while self._births:
            child = self._births.pop()()
            self._kept.append(Kept(self._name, lambda: self._begin()(), child))

    def close(self) -> None:
        """End them, also those that are still on their way."""
        for settle in self._births:
            with contextlib.suppress(ChildFailed):
                settle().stop()
        for child in self._kept:
            child.close()

    def _begin(self) -> Callable[[], Child]:
        """Begin a process; what waits until it is ready."""
        name = f"{self._name}-{uuid.uuid4().hex[:12]}"
        children.make_folder(name)
        exit_code = self._nursery.fork(self._module, os.getcwd(), name, listener=self._listener)

        def settle() -> Child:
            child = children.first_contact(name, lambda: exit_code() is not None)
            child.wait_until_ready(READY_SECONDS)
            return child

        return settle


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
