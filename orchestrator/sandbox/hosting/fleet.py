"""The endpoints' processes: start, watch, replace, stop.

Every endpoint is served by one process (`process.py`). An update starts the new process beside the
old one, waits until it is ready, turns the traffic, and lets the old one finish what it has begun. A
process that dies is started again; one that keeps dying is given up.

**Who changes an endpoint's state.** SageMaker's operations (sagemaker/endpoints.py) write down what
is wished: a new row (Creating), a `next_config` (Updating), Deleting. Everything that
follows from a wish is done, and written down, by the endpoint's keeper: a thread of which there is
at most one for each endpoint, and which goes on until row, process and route agree. It looks at the
row again before it writes, so that a wish that came meanwhile is never overwritten.

The route, a file that the fronts read (sagemaker/runtime.py), says which process is asked. It also
leads the next sandbox to the processes that outlived this one.
"""

import json
import logging
import os
import select
import threading
import time
import uuid
from collections import deque
from pathlib import Path

from orchestrator.sandbox import children
from orchestrator.sandbox.children import Child, ChildFailed
from orchestrator.sandbox.hosting import models, process, publisher
from orchestrator.sandbox.nursery import CannotFork, Nursery
from orchestrator.sandbox.places import Places, write_json
from orchestrator.sandbox.state import State, now

log = logging.getLogger(__name__)

CRASHES, CRASH_SECONDS = 5, 60  # so many deaths in so many seconds are a crash loop
FORKS = 25  # how often a process is begun that cannot be: its parent may have been killed
GRACE_SECONDS = 1  # from turning the traffic until the old process is told to stop
REASON_LENGTH = 1024  # SageMaker's limit


class Fleet:
    """All endpoint processes of the sandbox, by endpoint name."""

    def __init__(
        self, state: State, places: Places, nursery: Nursery, commands: dict[str, str]
    ) -> None:
        """`commands` maps a custom image's URI to the command that stands for it."""
        self._state = state
        self._nursery = nursery
        self._places = places
        self._commands = commands
        self._children: dict[str, Child] = {}
        self._crashes: dict[str, deque] = {}
        self._keepers: set[str] = set()
        self._again: set[str] = set()
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._wake, self._woken = os.pipe()
        models.sweep(places, {row["name"] for row in state.rows("models")})

    def recover(self) -> None:
        """Take over the processes that still run, and see to every endpoint."""
        rows = {row["name"]: row for row in self._state.rows("endpoints")}
        running = {child.name: child for child in children.adopt_all("endpoint")}
        for route in (self._places.folder / "run" / "routes").iterdir():
            row, child = rows.get(route.name), running.pop(_process_of(route), None)
            if child is None:
                if row is None or row["status"] == "Failed":
                    route.unlink()
                continue
            about = child.about
            as_wished = about.get("command") == self._commands.get(about.get("image"))
            if (
                row
                and about.get("config") == row["config"]
                and row["status"] != "Failed"
                and as_wished
            ):
                log.info("endpoint %s is still process %d", route.name, child.pid)
                self._children[route.name] = child
            else:
                route.unlink()
                child.stop()
        for child in running.values():  # no request goes there
            child.kill()
        for name in rows:
            self.tend(name)
        threading.Thread(target=self._watch, daemon=True).start()

    def tend(self, endpoint: str) -> None:
        """Have the endpoint's keeper look at its row, now or once more."""
        with self._lock:
            if endpoint in self._keepers:
                self._again.add(endpoint)
            elif not self._closing.is_set():
                self._keepers.add(endpoint)
                threading.Thread(target=self._keep, args=(endpoint,), daemon=True).start()

    def close(self) -> None:
        """Stop everything, for the sandbox's own end."""
        self._closing.set()
        os.write(self._woken, b"x")
        stops = [threading.Thread(target=child.stop) for child in list(self._children.values())]
        for stop in stops:
            stop.start()
        for stop in stops:
            stop.join()
        # Routes stay: a request that comes first after the next start waits for the process.
        self._nursery.close()

    # -- the keeper --------------------------------------------------------------------

    def _keep(self, endpoint: str) -> None:
        while True:
            try:
                finished = self._closing.is_set() or self._agree(endpoint)
            except Exception:
                log.exception("endpoint %s", endpoint)
                time.sleep(0.5)
                finished = False
            with self._lock:
                if finished and endpoint not in self._again:
                    self._keepers.discard(endpoint)
                    return
                self._again.discard(endpoint)

    def _agree(self, endpoint: str) -> bool:
        """One step towards what the row wishes; True when there is nothing left to do."""
        row = self._state.row("endpoints", name=endpoint)
        if row is None or row["status"] in ("Deleting", "Failed"):
            self._places.route(endpoint).unlink(missing_ok=True)
            child = self._children.pop(endpoint, None)
            if child is not None:
                child.stop()
            if row is not None and row["status"] == "Deleting":
                self._crashes.pop(endpoint, None)
                self._state.delete("endpoints", name=endpoint)
            return True
        child = self._children.get(endpoint)
        serves = child is not None and child.alive and child.about.get("config") == row["config"]
        if row["status"] == "Updating":
            self._bring_up(row, row["next_config"])
            return False
        if row["status"] == "InService" and serves:
            return True
        if row["status"] == "InService" and self._keeps_dying(endpoint):
            reason = f"The process died {CRASHES} times within {CRASH_SECONDS} s."
            self._give_up(row, reason)
            return False
        self._bring_up(row, row["config"])
        return False

    def _bring_up(self, row: dict, config: str) -> None:
        """Start a process for a configuration, and give it the traffic once it is ready."""
        endpoint, status = row["name"], row["status"]

        def is_void() -> bool:
            """Whether something else is wished by now."""
            return self._closing.is_set() or self._state.row("endpoints", name=endpoint) != row

        try:
            child = self._launch(endpoint, config, is_void)
        except Exception as error:
            if not isinstance(error, ChildFailed):
                log.exception("endpoint %s", endpoint)
            reason = str(error)[:REASON_LENGTH]
            if status == "Creating":
                self._give_up(row, reason)
            elif status == "Updating":
                self._write(row, status="InService", next_config=None, reason=reason)
            else:
                if not isinstance(error, ChildFailed):  # no death: there was no room for it, say
                    self._crashes[endpoint].pop()
                log.warning("endpoint %s does not start: %s", endpoint, reason)
                self._closing.wait(0.5)
            return
        if not self._write(row, status="InService", config=config, next_config=None, reason=None):
            child.kill()
            return
        before = self._children.get(endpoint)
        self._children[endpoint] = child
        route = {key: child.about[key] for key in ("variant", "asynchronous")}
        route["socket"] = children.socket_of(child.name)
        write_json(self._places.route(endpoint), route)
        log.info("endpoint %s is process %d", endpoint, child.pid)
        os.write(self._woken, b"x")
        if before is not None:
            threading.Thread(target=self._retire, args=(before,), daemon=True).start()

    def _give_up(self, row: dict, reason: str) -> None:
        if self._write(row, status="Failed", reason=reason):
            log.error("endpoint %s failed: %s", row["name"], reason)

    def _write(self, row: dict, **changes: object) -> bool:
        """Write what became of a wish, unless there is another one by now."""
        with self._state.transaction():
            if self._state.row("endpoints", name=row["name"]) != row:
                return False
            self._state.update("endpoints", {"name": row["name"]}, updated=now(), **changes)
            return True

    def _keeps_dying(self, endpoint: str) -> bool:
        """Note one more death; whether they are too many."""
        crashes = self._crashes.setdefault(endpoint, deque(maxlen=CRASHES))
        crashes.append(time.monotonic())
        return len(crashes) == CRASHES and crashes[-1] - crashes[0] < CRASH_SECONDS

    def _launch(self, endpoint: str, config_name: str, cancelled) -> Child:
        """Start a process for a configuration and wait until it is ready; no traffic yet."""
        config = self._state.row("endpoint_configs", name=config_name)
        if config is None:
            raise ChildFailed(f'Could not find endpoint configuration "{config_name}".')
        variant = config["request"]["ProductionVariants"][0]
        model = self._state.row("models", name=variant["ModelName"])
        if model is None:
            raise ChildFailed(f'Could not find model "{variant["ModelName"]}".')
        container = model["request"]["PrimaryContainer"]
        spool = self._places.spool(endpoint, config_name)
        capture = config["request"].get("DataCaptureConfig", {})
        if capture:
            publisher.prepare(spool, capture["DestinationS3Uri"], variant["VariantName"])
        folder = models.unpacked(self._places, model["name"], container["ModelDataUrl"])
        if self._state.row("models", name=model["name"]) is None:  # deleted meanwhile
            models.remove(self._places, model["name"])
            raise ChildFailed(f'The model "{model["name"]}" was deleted.')
        job = {
            "endpoint": endpoint,
            "config": config_name,
            "variant": variant["VariantName"],
            "asynchronous": "AsyncInferenceConfig" in config["request"],
            "model_dir": str(folder),
            "image": container["Image"],
            "command": self._commands.get(container["Image"]),
            "environment": container.get("Environment", {}),
            "capture": capture,
            "spool": str(spool),
        }
        for _ in range(FORKS):
            name = f"endpoint-{uuid.uuid4().hex[:12]}"
            log_file = self._places.log(endpoint, variant["VariantName"], name)
            try:
                return process.start(self._nursery, name, job, log_file, cancelled)
            except CannotFork as error:
                failure = error
                self._closing.wait(0.2)
        raise failure

    @staticmethod
    def _retire(child: Child) -> None:
        time.sleep(GRACE_SECONDS)
        child.stop()

    # -- the watch ---------------------------------------------------------------------

    def _watch(self) -> None:
        """Notice, for all endpoints, when a process has died."""
        while not self._closing.is_set():
            poll, names = select.poll(), {}
            poll.register(self._wake, select.POLLIN)
            for name, child in list(self._children.items()):
                for number in child.filenos() if child.alive else []:
                    poll.register(number, select.POLLIN)
                    names[number] = name
            for number, _ in poll.poll(1000):
                if number == self._wake:
                    os.read(self._wake, 4096)
            for name, child in list(self._children.items()):
                if not child.alive and not self._closing.is_set():
                    if self._children.get(name) is child:
                        log.warning("the process of endpoint %s died", name)
                        self._children.pop(name, None)
                        child.kill()
                    self.tend(name)


def _process_of(route: Path) -> str | None:
    """The name of the process that a route leads to."""
    try:
        return Path(json.loads(route.read_text())["socket"]).parent.name
    except (ValueError, KeyError):
        return None
