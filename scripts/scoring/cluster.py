"""Work shared among machines by Dask: processes here, jobs of a queue, or a scheduler that is there.

Dask's protocol is pickle: whoever can speak to a scheduler can run what he likes as the one who started it.
So what is started here speaks TLS, with certificates made for the occasion, and an address of another
machine must be tls://; where its certificates are, Dask's own configuration says. Workers run this
checkout's code, or none of a list.
"""

import argparse
import hashlib
import logging
import os
import pickle
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

from common import ROOT
from common.errors import UserError
from common.output import say

QUEUES = ("slurm", "htcondor")
STARTED = ("local", *QUEUES)
SET_UP = "make cluster-setup"
PATIENCE = 60.0  # seconds that a scheduler may have no worker
LOOK = 5.0  # seconds
AT_ONCE = 4096  # parts on their way
PACKAGES = ("numpy", "scipy", "scikit-learn", "pyarrow")  # what a number's last bit depends on
DASHBOARD = "127.0.0.1:0"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# What workers need: a process of theirs may have others, in which a package's code runs.
CONFIG = {"distributed.worker.daemon": False}
PROLOGUE = [
    f"cd {shlex.quote(str(ROOT))}",
    f"export PYTHONPATH={shlex.quote(f'{ROOT}/scripts:{ROOT}')} OMP_NUM_THREADS=1",
    "export DASK_DISTRIBUTED__WORKER__DAEMON=False",
]


def named(text: str) -> str:
    """A cluster as it is written; what is none is told."""
    if text in STARTED:
        return text
    parts = urlsplit(text)
    if parts.scheme not in ("tcp", "tls") or not parts.hostname or not parts.port:
        raise argparse.ArgumentTypeError(
            f"{text}: one of {', '.join(STARTED)}, or an address, tls://host:port"
        )
    if parts.scheme == "tcp" and parts.hostname not in LOOPBACK:
        raise argparse.ArgumentTypeError(
            f"{text}: whoever reaches such a scheduler can run what he likes there: start it with TLS, "
            "tls://host:port (docs/cluster.md)"
        )
    return text


@cache
def code() -> str:
    """A digest of the code that makes lists, and of what it stands on: all who work on one must share it."""
    digest = hashlib.sha256(repr([(name, version(name)) for name in PACKAGES]).encode())
    for folder in ("candidates", "clients", "common", "scoring"):
        for path in sorted((ROOT / "scripts" / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


class Cluster:
    """Dask's workers: `workers` of them started here or by a queue, or those of a scheduler."""

    def __init__(self, where: str, workers: int | None) -> None:
        try:
            import dask
            import distributed
        except ImportError:
            raise UserError("Dask is not installed", SET_UP) from None
        dask.config.set(CONFIG)
        # What is wrong is said once, by whoever asked.
        for name in ("distributed", "distributed.client"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._dask, self._cluster, self._where = distributed, None, where
        self._patience = None if where in QUEUES else PATIENCE
        if where in STARTED:
            self._cluster = _started(where, workers or os.cpu_count() or 1)
        try:
            self._client = distributed.Client(self._cluster or where, timeout=PATIENCE)
        except (OSError, TypeError, ValueError) as error:
            raise UserError(
                f"{where}: no scheduler answers: {error}", "docs/cluster.md says how to start one"
            ) from None
        self._wait(where)

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        if self._cluster:
            self._cluster.close()

    def _wait(self, where: str) -> None:
        """Until there is a worker: a queue takes its time."""
        say(f"cluster: {where}, its scheduler at {self._client.scheduler.address}")
        if where in QUEUES:
            say("cluster: waiting for the queue's first job")
        try:
            self._client.wait_for_workers(1, timeout=self._patience)
        except TimeoutError:
            raise self._without_workers() from None

    def _without_workers(self) -> UserError:
        return UserError(
            f"{self._where} has no workers: what is done is kept",
            f"sh scripts/cluster/worker.sh {self._where}, and type the same again",
        )

    def each(
        self, task: Callable, items: Iterable, *arguments: object
    ) -> Iterator[tuple[object, dict]]:
        """What `task(item, *arguments)` gives for each item, as they end. A worker that is killed costs what
        it had in hand, which is done again.

        UserError when a task raises it, when one has ended its workers several times, or when scheduler or
        workers are gone.
        """
        items, call = iter(items), _caller()
        # Once to the scheduler and each worker, not with every part; as bytes, for a scheduler need not
        # have our code.
        work = self._client.submit(bytes, pickle.dumps((task, arguments)), pure=False)
        going: dict = {}
        while True:
            with self._reached():
                for item in islice(items, AT_ONCE - len(going)):
                    going[self._client.submit(call, work, pickle.dumps(item), pure=False)] = item
                ended = self._ended(list(going))
            for future in ended:
                item = going.pop(future)
                yield item, self._result(future)
            if not going and not ended:
                return

    def _ended(self, going: list) -> set:
        """Those that have ended, of which there is one when this ends. UserError where there have been no
        workers for too long; a queue may have none for as long as it takes."""
        seen = time.monotonic()
        while going:
            try:
                return self._dask.wait(going, LOOK, "FIRST_COMPLETED").done
            except TimeoutError:
                if self._client.nthreads():
                    seen = time.monotonic()
                elif self._patience and time.monotonic() - seen > self._patience:
                    raise self._without_workers() from None
        return set()

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        # Closed connections are OSErrors, and a client that has none any more has closed itself.
        except (self._dask.CancelledError, OSError, RuntimeError) as error:
            raise UserError(
                f"the cluster's scheduler is gone: {str(error).partition(chr(10))[0]}",
                "start it and its workers, and type the same again: what is done is kept",
            ) from None

    def _result(self, future: object) -> dict:
        with self._reached():
            error = future.exception()
        if error is None:
            with self._reached():
                return future.result()
        if isinstance(error, UserError):
            raise error
        if isinstance(error, self._dask.KilledWorker):
            raise UserError(
                "the workers that had one part of it were killed, one after another",
                "look for why in their logs (memory?), and type the same again: what is done is kept",
            )
        remedy = "start them by scripts/cluster/worker.sh, in a checkout of this version"
        if isinstance(error, OSError):
            remedy = "what is done is kept: mend that, and type the same again"
        raise UserError(f"a worker has failed: {error!r}", remedy)


def _caller() -> Callable:
    """What a worker calls; within a function, or it would be known by our module's name alone."""

    def call(work: bytes, item: bytes) -> dict:
        import pickle
        from importlib import import_module

        task, arguments = import_module("scoring.cluster").unpickled(work)
        return task(pickle.loads(item), *arguments)  # noqa: S301 - as all that Dask sends

    return call


@lru_cache(maxsize=4)
def unpickled(work: bytes) -> tuple[Callable, tuple]:
    """The task of many items, and what it is told each time."""
    return pickle.loads(work)  # noqa: S301


def _started(where: str, workers: int) -> object:
    from distributed import LocalCluster, Security

    security = Security.temporary()
    if where == "local":
        return LocalCluster(
            n_workers=workers, threads_per_worker=1, host="127.0.0.1", protocol="tls://",
            security=security, dashboard_address=DASHBOARD, silence_logs=logging.CRITICAL,
        )  # fmt: skip
    import dask
    import dask_jobqueue

    made = {"slurm": dask_jobqueue.SLURMCluster, "htcondor": dask_jobqueue.HTCondorCluster}[where]
    options = dask.config.get(f"jobqueue.{where}.scheduler-options", {})
    prologue = dask.config.get(f"jobqueue.{where}.job-script-prologue", [])
    try:
        jobs = made(
            python=sys.executable, security=security, job_script_prologue=[*prologue, *PROLOGUE],
            scheduler_options={"dashboard_address": DASHBOARD} | options,
            shared_temp_directory=_for_certificates(),
        )  # fmt: skip
        # Jobs that have come to their time are followed by others.
        jobs.adapt(minimum_jobs=workers, maximum_jobs=workers)
    except (ValueError, OSError, RuntimeError) as error:
        raise UserError(
            f"{where}: {error}", "name cores, memory and queue in ~/.config/dask/jobqueue.yaml"
        ) from None
    return jobs


def _for_certificates() -> str:
    """A folder that the queue's machines see, and nobody but its owner."""
    folder = Path.home() / ".dask-certificates"
    folder.mkdir(mode=0o700, exist_ok=True)
    return str(folder)
