"""The endpoints' processes: start, watch, replace, stop.

Every endpoint is served by one process (`process.py`). An update starts the new process
beside the old one, waits until it is ready, turns the traffic, and lets the old one finish
what it has begun. A process that dies is started again; one that keeps dying is given up.
"""

import contextlib
import logging
import shutil
import tempfile
import threading
import time
import uuid
from collections import deque
from pathlib import Path

from orchestrator.sandbox.errors import ResourceFailed
from orchestrator.sandbox.process import DRAIN_SECONDS, Instance
from orchestrator.sandbox.state import State, now, write_json

log = logging.getLogger(__name__)

CRASHES, CRASH_SECONDS = 5, 60  # so many deaths in so many seconds are a crash loop


class Fleet:
    """All endpoint processes of the sandbox, by endpoint name."""

    def __init__(self, state: State, folder: Path, commands: dict[str, str]) -> None:
        """`commands` maps a custom image's URI to the command that stands for it."""
        self._state = state
        self._folder = folder
        self._commands = commands
        # Not below the state folder: a Unix socket's path is limited to some 100 bytes. The link
        # leads to what a killed sandbox left there.
        self._link = folder / "sockets"
        if self._link.is_symlink():
            shutil.rmtree(self._link.resolve(), ignore_errors=True)
            self._link.unlink()
        self._sockets = Path(tempfile.mkdtemp(prefix="sandbox-"))
        self._link.symlink_to(self._sockets)
        self._instances: dict[str, Instance] = {}
        self._crashes: dict[str, deque] = {}
        self._lock = threading.RLock()
        self._closing = False
        (folder / "logs").mkdir(exist_ok=True)
        threading.Thread(target=self._watch, daemon=True).start()

    def spools(self) -> list[Path]:
        """The capture folders, `capture/<endpoint>/<configuration>`."""
        return [path for path in self._folder.glob("capture/*/*") if path.is_dir()]

    def instance(self, endpoint: str) -> Instance | None:
        return self._instances.get(endpoint)

    def launch(self, endpoint: str, config_name: str) -> Instance:
        """Start a process for a configuration and wait until it is ready; no traffic yet."""
        config = self._state.row(
            "resources", type="AWS::SageMaker::EndpointConfig", name=config_name
        )
        if config is None:  # an interrupted update is just being taken back
            raise ResourceFailed(f'Could not find endpoint configuration "{config_name}".')
        variant = config["properties"]["ProductionVariants"][0]
        model = self._state.row(
            "resources", type="AWS::SageMaker::Model", name=variant["ModelName"]
        )
        if model is None:
            raise ResourceFailed(f'Could not find model "{variant["ModelName"]}".')
        container = model["properties"]["PrimaryContainer"]
        spool = self._folder / "capture" / endpoint / config_name
        capture = config["properties"].get("DataCaptureConfig", {})
        if capture:
            spool.mkdir(parents=True, exist_ok=True)
            where = {"destination": capture["DestinationS3Uri"], "variant": variant["VariantName"]}
            write_json(spool / "destination.json", where)
        job = {
            "config": config_name,
            "variant": variant["VariantName"],
            "model_dir": str(self._folder / "models" / model["name"]),
            "image": container["Image"],
            "command": self._commands.get(container["Image"]),
            "environment": container.get("Environment", {}),
            "capture": capture,
            "spool": str(spool),
            "socket": str(self._sockets / f"{uuid.uuid4().hex[:12]}.sock"),
        }
        instance = Instance(job, self._folder / "logs" / f"{endpoint}.log")
        instance.wait_until_ready()
        log.info("endpoint %s is process %d", endpoint, instance.pid)
        return instance

    def turn_traffic(self, endpoint: str, instance: Instance) -> None:
        """Send new requests to `instance`; the process it replaces ends when it is idle."""
        with self._lock:
            before = self._instances.get(endpoint)
            self._instances[endpoint] = instance
        if before is not None:
            threading.Thread(target=self._retire, args=(before,), daemon=True).start()

    def remove(self, endpoint: str) -> None:
        """Stop an endpoint's process and wait for its end."""
        with self._lock:
            instance = self._instances.pop(endpoint, None)
            self._crashes.pop(endpoint, None)
        if instance is not None:
            self._retire(instance)

    def recover(self) -> None:
        """Bring back, after a restart, the endpoints that were in service."""
        for row in self._state.rows("endpoints"):
            if row["status"] in ("InService", "Updating"):
                threading.Thread(target=self._start_again, args=(row["name"],), daemon=True).start()

    def close(self) -> None:
        """Stop everything, for the sandbox's own end."""
        self._closing = True
        stops = [
            threading.Thread(target=instance.stop) for instance in list(self._instances.values())
        ]
        for stop in stops:
            stop.start()
        for stop in stops:
            stop.join()
        with contextlib.suppress(OSError):
            self._sockets.rmdir()
            self._link.unlink()

    @staticmethod
    def _retire(instance: Instance) -> None:
        deadline = time.monotonic() + DRAIN_SECONDS
        while instance.requests and time.monotonic() < deadline:
            time.sleep(0.02)
        instance.stop()

    def _watch(self) -> None:
        while not self._closing:
            time.sleep(0.1)
            for endpoint, instance in list(self._instances.items()):
                if not instance.alive and not self._closing:
                    log.warning("the process of endpoint %s died", endpoint)
                    with self._lock:
                        if self._instances.get(endpoint) is instance:
                            del self._instances[endpoint]
                    instance.stop()
                    threading.Thread(
                        target=self._start_again, args=(endpoint,), daemon=True
                    ).start()

    def _start_again(self, endpoint: str) -> None:
        """Start the process of an endpoint that should be in service and is not."""
        crashes = self._crashes.setdefault(endpoint, deque(maxlen=CRASHES))
        while not self._closing:
            row = self._state.row("endpoints", name=endpoint)
            if row is None or row["status"] not in ("InService", "Updating"):
                return
            crashes.append(time.monotonic())
            if len(crashes) == CRASHES and crashes[-1] - crashes[0] < CRASH_SECONDS:
                reason = f"The process died {CRASHES} times within {CRASH_SECONDS} s."
                self.give_up(endpoint, reason)
                return
            try:
                instance = self.launch(endpoint, row["config"])
            except ResourceFailed as error:
                log.warning("endpoint %s does not start: %s", endpoint, error)
                time.sleep(0.5)
                continue
            with self._lock:
                # An update, or another thread of this kind, may have been quicker.
                if self._instances.get(endpoint) is None:
                    self._instances[endpoint] = instance
                    return
            instance.stop()
            return

    def give_up(self, endpoint: str, reason: str) -> None:
        log.error("endpoint %s failed: %s", endpoint, reason)
        where = {"name": endpoint}
        self._state.update("endpoints", where, status="Failed", reason=reason, updated=now())
