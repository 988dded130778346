"""A sandbox apart from the user's, on a small disk and under a clock of its own, and requests to it.

Where this machine does not let us make the disk (root, tmpfs) or the clock (a C compiler), the arena
does without, and `missing` says so.
"""

import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import boto3
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config

from clients.target import Target
from common import ROOT
from common.errors import UserError

DISK_BYTES = 1 << 30
KINDS = {  # a sandbox's processes, by what `ps` shows of them
    "server": r"orchestrator\.sandbox {} ",
    "nursery": r"sandbox nursery {}$",
    "front": r"sandbox front {}$",
    "store": r"sandbox store {}$",
    "weed": r"-dir={}/store/data ",
    "endpoint": r"sandbox endpoint \S+ {}$",
}
REQUEST_SECONDS = 40
PORTS = range(20000, 32000, 2)  # below those that the kernel gives to anybody


class Gone(Exception):
    """A connection that was refused, or ended or fell silent before the answer."""


class Arena:
    def __init__(self, folder: Path) -> None:
        """`folder` is empty, and not removed here."""
        self.missing: dict[str, str] = {}  # what cannot be had here, and why
        self.disk = folder / "disk"
        self.disk.mkdir()
        self.folder = self.disk / "sandbox"
        self._clock = folder / "clock"
        self._python = self._make_clock(folder / "python")
        self._make_disk()
        kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        for key in ("ORCHESTRATOR_URL", "ASSETS_BUCKET"):
            kept.pop(key, None)
        more = {"SANDBOX_DIR": self.folder, "SANDBOX_PORT": _free_ports(), "TARGET": "local"}
        self._environment = kept | {key: str(value) for key, value in more.items()}

    # -- the sandbox's life ------------------------------------------------------------

    def script(self, *command: str) -> subprocess.CompletedProcess:
        """Run a script as a user does."""
        name, *arguments = command
        return subprocess.run(
            [self._python, ROOT / "scripts" / f"{name}.py", *arguments], cwd=ROOT,
            env=self._environment, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def up(self) -> None:
        for command in ("up", "env"):
            done = self.script("sandbox", command, "--json")
            if done.returncode:
                raise UserError(f"sandbox.py {command}: {done.returncode} {done.stderr.strip()}")
        self.variables = json.loads(done.stdout)
        self.bucket = self.variables["ASSETS_BUCKET"]
        self._session = boto3.Session(
            self.variables["AWS_ACCESS_KEY_ID"],
            self.variables["AWS_SECRET_ACCESS_KEY"],
            region_name=self.variables["AWS_DEFAULT_REGION"],
        )
        # Our own clients' way to delete a stack with all that belongs to it.
        self.target = Target(
            self.variables["ORCHESTRATOR_URL"], self.bucket, self._session,
            self.variables["AWS_ENDPOINT_URL"], self.variables["AWS_ENDPOINT_URL_S3"],
        )  # fmt: skip

    def processes(self) -> dict[str, list[int]]:
        """Pids by kind; `other` is whatever else runs on the folder."""
        listed = subprocess.run(
            ["ps", "-axwwo", "pid=,args="], capture_output=True, text=True
        ).stdout.splitlines()
        found: dict[str, list[int]] = {kind: [] for kind in [*KINDS, "other"]}
        for line in listed:
            pid, _, title = line.strip().partition(" ")
            if str(self.folder) not in title or int(pid) == os.getpid():
                continue
            place = re.escape(str(self.folder))
            kinds = (kind for kind, mark in KINDS.items() if re.search(mark.format(place), title))
            found[next(kinds, "other")].append(int(pid))
        return found

    def kill(self, kind: str) -> int:
        """`kill -9` all processes of a kind; how many there were."""
        pids = self.processes()[kind]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(pids)

    def close(self) -> None:
        """Leave nothing behind, whatever state it is in."""
        for pid in [pid for pids in self.processes().values() for pid in pids]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if "disk" not in self.missing:
            subprocess.run(["umount", "-l", self.disk], check=True)

    # -- the disk ----------------------------------------------------------------------

    def _make_disk(self) -> None:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "tmpfs", self.disk]
        with contextlib.suppress(OSError):
            if os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0:
                return
        self.missing["disk"] = "no small file system can be mounted (that takes root)"

    def _remount(self, options: str) -> bool:
        command = ["mount", "-o", f"remount,{options}", self.disk]
        return subprocess.run(command, capture_output=True).returncode == 0

    def fill_disk(self) -> None:
        """Nothing more can be written: the disk is made as small as what it holds, but for some
        pages, and a ballast takes those."""
        room = 1 << 18
        while not self._remount(f"size={shutil.disk_usage(self.disk).used + room}"):
            room *= 2  # something was written meanwhile
        with contextlib.suppress(OSError), open(self.disk / "ballast", "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def set_read_only(self) -> bool:
        """Whether it could be done: not while somebody has a file open for writing."""
        return self._remount("ro")

    def heal_disk(self) -> None:
        self._remount(f"rw,size={DISK_BYTES}")
        (self.disk / "ballast").unlink(missing_ok=True)

    # -- the clock ---------------------------------------------------------------------

    def _make_clock(self, home: Path) -> str:
        """A Python, in an environment that is ours by links, which lives under `set_clock`."""
        self.set_clock(0)
        compiler, source = shutil.which("cc"), Path(__file__).with_name("clock.c")
        if sys.platform != "linux" or compiler is None or sys.prefix == sys.base_prefix:
            self.missing["clock"] = "the server's clock stays: no C compiler, or no venv"
            return sys.executable
        (home / "bin").mkdir(parents=True)
        shim, python = home / "clock.so", home / "bin" / "python"
        places = {"CLOCK": self._clock, "SHIM": shim, "REAL": os.path.realpath(sys.executable)}
        defines = [f'-D{key}="{value}"' for key, value in places.items()]
        for options in (["-shared", "-fPIC", "-o", shim], ["-DLAUNCHER", "-o", python]):
            command = [compiler, "-O1", *defines, *options, source, "-ldl"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                self.missing["clock"] = f"the server's clock stays: {done.stderr.strip()}"
                return sys.executable
        shutil.copy(Path(sys.prefix, "pyvenv.cfg"), home)
        (home / "lib").symlink_to(Path(sys.prefix, "lib"))
        for tool in Path(sys.prefix, "bin").iterdir():
            if not tool.name.startswith("python"):
                (home / "bin" / tool.name).symlink_to(tool)
        return str(python)

    def set_clock(self, seconds: int) -> None:
        """The sandbox's time of day is off by so many seconds from now on. SeaweedFS, which asks the
        kernel itself, keeps the right time, and so do the clients."""
        with open(self._clock, "r+b" if self._clock.exists() else "wb") as file:
            file.write(struct.pack("l", seconds))

    # -- requests ----------------------------------------------------------------------

    def s3(self, patient: bool):
        """boto3's S3 client; a patient one asks again, the other says at once what went wrong."""
        retries = {"mode": "standard", "max_attempts": 8 if patient else 1}
        config = Config(
            retries=retries, connect_timeout=5, read_timeout=REQUEST_SECONDS, tcp_keepalive=True
        )
        url = self.variables["AWS_ENDPOINT_URL_S3"]
        return self._session.client("s3", endpoint_url=url, config=config)

    def signed(
        self, service: str, method: str, path: str, body: bytes, headers: dict[str, str],
        skew: float = 0,
    ) -> tuple[tuple[str, int], dict[str, str]]:  # fmt: skip
        """Address and headers of a request that was made `skew` seconds from now."""
        url = self.variables["AWS_ENDPOINT_URL_S3" if service == "s3" else "AWS_ENDPOINT_URL"]
        request = AWSRequest(method, url + path, data=body, headers=headers)
        kind = S3SigV4Auth if service == "s3" else SigV4Auth
        signer = kind(self._session.get_credentials(), service, self._session.region_name)
        moment = f"{datetime.now(UTC) + timedelta(seconds=skew):%Y%m%dT%H%M%SZ}"
        request.headers["X-Amz-Date"] = request.context["timestamp"] = moment
        if service == "s3":
            request.headers["X-Amz-Content-SHA256"] = signer.payload(request)
        text = signer.string_to_sign(request, signer.canonical_request(request))
        signer._inject_signature_to_request(request, signer.signature(text, request))
        place = urlsplit(url)
        return (place.hostname, place.port), {**request.headers, "Host": place.netloc}


class Client:
    """Asks over one connection after the other, as SDKs do; not thread-safe."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._connections: dict[tuple[str, int], http.client.HTTPConnection] = {}

    def send(
        self, service: str, method: str, path: str, body: bytes = b"", skew: float = 0,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:  # fmt: skip
        """Status and body of the answer to a signed request; Gone when there is none."""
        address, signed = self._arena.signed(service, method, path, body, headers or {}, skew)
        connection = self._connections.get(address)
        if connection is None:
            connection = http.client.HTTPConnection(*address, timeout=REQUEST_SECONDS)
            self._connections[address] = connection
        try:
            connection.request(method, path, body, signed)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Gone(f"{type(error).__name__}: {error}") from None

    def predict(
        self, endpoint: str, body: bytes, inference_id: str = "", skew: float = 0
    ) -> tuple[int, bytes]:
        headers = {"Content-Type": "text/csv"}
        if inference_id:
            headers["X-Amzn-SageMaker-Inference-Id"] = inference_id
        path = f"/endpoints/{endpoint}/invocations"
        return self.send("sagemaker", "POST", path, body, skew, headers)

    def post(self, path: str, body: dict, skew: float = 0) -> tuple[int, dict]:
        """A request to the orchestrator."""
        content = json.dumps(body).encode()
        status, text = self.send("execute-api", "POST", f"/prod{path}", content, skew)
        try:
            return status, json.loads(text)
        except ValueError:
            return status, {"message": text.decode(errors="replace")}


def _free_ports() -> int:
    """A port that is free, as the next one is."""
    for port in random.sample(PORTS, len(PORTS)):
        with contextlib.suppress(OSError):
            for number in (port, port + 1):
                socket.create_server(("127.0.0.1", number)).close()
            return port
    raise UserError("no two ports are free on 127.0.0.1")


def until(condition, seconds: float) -> bool:
    """Wait for something to become true; whether it did."""
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return bool(found)
