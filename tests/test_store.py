"""The store's process: closed to everybody else, robust against kills, clear about what is wrong."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from orchestrator.sandbox.store import proof
from orchestrator.sandbox.store.seaweed import Seaweed, binary, free_ports

SECRET = b"nobody else may read this"
NOBODY = 65534
PATIENT = Config(retries={"mode": "standard", "max_attempts": 10}, s3={"addressing_style": "path"})


# -- attacks --------------------------------------------------------------------------


def listening(folder: Path) -> dict[int, str]:
    """Every port that a process of this sandbox's listens on, with the process's name."""
    found = {}
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if str(folder) in command:
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    assert connection.laddr.ip == "127.0.0.1", command
                    found[connection.laddr.port] = command
    return found


# Pages on which SeaweedFS tells its version and its disks, whatever the method: it has no switch
# for them.
INFORMATION = ("/", "/ui/index.html", "/status", "/healthz", "/cluster/status", "/metrics")

ATTACK = """
import http.client, json, os, socket, ssl, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
user, ports, masters, folder, sockets, weed, own = json.loads(sys.argv[1])
if user:
    os.setgroups([]); os.setgid(user); os.setuid(user)
found = []
paths = ["/", "/pulsar-assets/attacked", "/buckets/pulsar-assets/attacked", "/buckets/?pretty=y",
         "/dir/assign", "/dir/lookup?volumeId=1", "/dir/status", "/vol/status", "/vol/grow?count=1",
         "/col/delete?collection=pulsar-assets", "/submit", "/stats/disk", "/stats/counter",
         "/debug/pprof/heap", "/metrics", "/cluster/status", "/status", "/ui/index.html",
         "/admin/assign_volume?volume=9", "/1,01637037d6", "/__admin__/status", "/api/config",
         "/login", "/v1/config", "/topics/.system/log", "/etc/iam/identity.json", "/..%2f..%2fetc/passwd",
         "/pulsar-assets?policy", "/pulsar-assets/attacked?acl", "/prod/provisionpipeline"]
def attack(port):
    for path in paths:
        for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                connection.request(method, path, body=b"attacked" if method in ("PUT", "POST") else None)
                answer = connection.getresponse()
                found.append([port, method, path, answer.status, answer.read(20000).decode("latin-1")])
            except (OSError, http.client.HTTPException):
                pass
            finally:
                connection.close()
    for context in own:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        tls.set_alpn_protocols(["h2"])
        if context:
            tls.load_cert_chain(context)
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
                with tls.wrap_socket(plain) as connection:
                    connection.sendall(b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n" + bytes([0,0,0,4,0,0,0,0,0]))
                    if connection.recv(9):
                        found.append([port, "TLS", context or "without certificate", 200, "SETTINGS"])
        except (OSError, ssl.SSLError):
            pass
with ThreadPoolExecutor(len(ports)) as pool:
    list(pool.map(attack, ports))
for path in sockets:
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(2)
            connection.connect(path)
            connection.sendall(b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n" + bytes([0,0,0,4,0,0,0,0,0]))
            if len(connection.recv(9)) > 3:
                found.append([0, "socket", path, 200, "SETTINGS"])
    except OSError:
        pass
readable = []
for place, _, names in os.walk(folder):
    readable += [os.path.join(place, name) for name in names if os.access(os.path.join(place, name), os.R_OK)]
for number in filter(str.isdecimal, os.listdir("/proc") if os.path.isdir("/proc") else []):
    try:
        command = open(f"/proc/{number}/cmdline").read()
        if folder in command and "SECRET" in open(f"/proc/{number}/environ").read():
            readable.append(f"/proc/{number}/environ")
    except OSError:
        pass
shells = []
for port in masters:
    command = ["timeout", "-s", "KILL", "8", weed, "shell", f"-master=127.0.0.1:{port[0]}.{port[1]}"]
    done = subprocess.run(command, text=True, input="fs.ls /buckets\\nexit\\n", capture_output=True,
                          cwd="/tmp", env={"HOME": "/tmp", "PATH": os.environ["PATH"]})
    shells.append(done.stdout + done.stderr)
print(json.dumps([found, readable, shells]))
"""


@pytest.mark.slow
def test_no_other_user_gets_at_an_object_through_any_port(own_sandbox, tmp_path):
    """Everything that listens is asked for, or told to change, what it keeps, without a key."""
    s3 = own_sandbox.client("s3")
    s3.put_object(Bucket=own_sandbox.bucket, Key="attacked", Body=SECRET)
    ports = listening(own_sandbox.folder)
    assert len(ports) >= 11, ports  # the sandbox, S3, and SeaweedFS's ten but for two that are off
    subprocess.run(
        [sys.executable, "-m", "orchestrator.sandbox.store.certificate", tmp_path],
        check=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    pair = tmp_path / "pair.pem"
    pair.write_text((tmp_path / "store.crt").read_text() + (tmp_path / "store.key").read_text())
    pair.chmod(0o644)
    attack = shutil.copy(pair, "/tmp/attack-pair.pem")
    weed = shutil.copy(binary(), "/tmp/attack-weed")
    sockets = [str(path) for path in Path("/tmp").glob("seaweedfs-*.sock")]
    user = NOBODY if os.geteuid() == 0 else 0
    own = json.loads((own_sandbox.folder / "store" / "ports.json").read_text())
    masters = [[own["master"], own["master grpc"]]]
    told = json.dumps(
        [user, list(ports), masters, str(own_sandbox.folder), sockets, weed, ["", str(attack)]]
    )
    try:
        done = subprocess.run(
            [shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable, "-c", ATTACK, told],
            capture_output=True, text=True, cwd="/tmp", timeout=280,
        )  # fmt: skip
    finally:
        Path(attack).unlink()
        Path(weed).unlink()
    assert done.returncode == 0, done.stderr
    found, readable, shells = json.loads(done.stdout)
    assert len(found) > 1000
    told = [answer for answer in found if SECRET.decode() in answer[4] or "attacked" in answer[4]]
    # The gate says again what was asked for; what nobody can see is what is in it.
    assert [a for a in told if SECRET.decode() in a[4] or a[3] < 400] == []
    changed = {
        (ports.get(a[0]), a[1], a[2])
        for a in found
        if a[1] in ("PUT", "POST", "DELETE") and a[3] < 300
        and not ("weed" in ports.get(a[0], "") and a[2] in INFORMATION)
    }  # fmt: skip
    assert changed == set()
    assert [a for a in found if a[1] in ("TLS", "socket")] == []
    assert [text for text in shells if own_sandbox.bucket in text] == []
    if user:
        assert readable == []
    assert s3.get_object(Bucket=own_sandbox.bucket, Key="attacked")["Body"].read() == SECRET


def test_the_proof_at_the_start_finds_the_doors_of_a_store_as_it_comes(tmp_path):
    """Else that it finds none in ours would say nothing."""
    ports = free_ports()
    command = [binary(), "-logtostderr=true", "mini", f"-dir={tmp_path}", "-ip=127.0.0.1"]
    for part in ("s3", "master", "volume", "filer", "admin"):
        command += [f"-{part}.port={ports[part]}", f"-{part}.port.grpc={ports[f'{part} grpc']}"]
    command += [
        "-webdav=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.telemetry=false",
    ]
    with open(tmp_path / "log", "w") as log:
        weed = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
    try:
        wanted = [f"{name} without a certificate" for name in ports if name.endswith("grpc")]
        wanted += ["GET / on the filer's port", "PUT /proof on the filer's port"]
        wanted += ["GET /dir/assign on the master's port", "POST /submit on the master's port"]
        until(lambda: set(wanted) <= set(ways_in(ports)), 30)
    finally:
        weed.kill()
        weed.wait()


def ways_in(ports: dict[str, int]) -> list[str]:
    with contextlib.suppress(OSError):
        return proof.ways_in(ports)
    return []


def until(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


# -- faults ---------------------------------------------------------------------------


def refused(project, folder: Path, **more: str) -> str:
    """What `sandbox.py up` says when it fails: one line, and no traceback, here or in the log."""
    result = project.script("sandbox", "up", SANDBOX_DIR=str(folder), **more)
    assert result.returncode == 1, result.stdout
    assert result.stderr.count("\n") <= 2 and "Traceback" not in result.stderr
    log = folder / "sandbox.log"
    assert not log.exists() or "Traceback" not in log.read_text()
    return result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (None, 0, "cannot be run"),
        (b"", 0o600, "cannot be run"),
        (b"\x7fELF no program for this machine", 0o700, "cannot be run here"),
        (b"#!/bin/sh\necho nothing of the kind >&2\nexit 1\n", 0o700, "nothing of the kind"),
        (b"#!/bin/sh\nexit 0\n", 0o700, "it said nothing"),
    ],
    ids=["missing", "not executable", "for another machine", "with an error", "ending at once"],
)  # fmt: skip
def test_a_weed_that_does_not_run_here_is_one_line(project, tmp_path, content, mode, words):
    weed = tmp_path / "weed"
    if content is not None:
        weed.write_bytes(content)
        weed.chmod(mode)
    said = refused(project, tmp_path / "sandbox", WEED=str(weed))
    assert words in said
    assert "WEED=" in said or "weed.log" in said


def test_a_taken_port_for_s3_is_named(project, tmp_path):
    with contextlib.ExitStack() as stack:
        while True:
            taken = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            with contextlib.suppress(OSError):
                socket.create_server(("127.0.0.1", taken - 1)).close()
                break
        said = refused(project, tmp_path / "sandbox", SANDBOX_PORT=str(taken - 1))
    assert f"port {taken} is taken" in said and "SANDBOX_PORT=" in said


def test_ports_that_others_have_taken_since_are_left_to_them(own_sandbox):
    own_sandbox.upload(b"1", "kept")
    own_sandbox.project.script("sandbox", "down")
    ports = json.loads((own_sandbox.folder / "store" / "ports.json").read_text())
    with socket.create_server(("127.0.0.1", ports["filer"])):
        own_sandbox.start()
        s3 = own_sandbox.client("s3")
        assert s3.get_object(Bucket=own_sandbox.bucket, Key="kept")["Body"].read() == b"1"


@pytest.mark.slow
def test_a_folder_that_another_store_uses_is_left_alone(own_sandbox):
    own_sandbox.upload(b"1", "kept")
    own_sandbox.project.script("sandbox", "down")
    foreign = Seaweed(own_sandbox.folder / "store")
    foreign.begin()
    foreign.settle()
    (own_sandbox.folder / "store" / "process.json").unlink()  # nobody here has started it
    try:
        said = refused(own_sandbox.project, own_sandbox.folder)
        assert "Another process uses" in said and "SANDBOX_DIR=" in said
        assert foreign.alive
    finally:
        foreign.stop()
    own_sandbox.start()
    s3 = own_sandbox.client("s3")
    assert s3.get_object(Bucket=own_sandbox.bucket, Key="kept")["Body"].read() == b"1"


@pytest.fixture
def disk(tmp_path):
    """Makes a small file system, where we may."""
    made = []

    def make(options: str) -> Path:
        folder = tmp_path / f"disk{len(made)}"
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("cannot mount a file system here")
        made.append(folder)
        return folder

    yield make
    for folder in made:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_without_room_and_one_that_is_read_only_are_one_line(project, disk):
    full = disk("size=600k")
    assert "is full" in refused(project, full / "sandbox")
    read_only = disk("size=10m")
    subprocess.run(["mount", "-o", "remount,ro", str(read_only)], check=True)
    assert "Read-only file system" in refused(project, read_only / "sandbox")


@contextlib.contextmanager
def ballast(folder: Path):
    """Nothing more can be written on this disk."""
    filler = folder / "ballast"
    with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    yield
    filler.unlink()


@pytest.fixture
def tight(project, disk):
    """A sandbox on a small disk, with an endpoint."""
    from conftest import Sandbox
    from test_sandbox import deploy

    sandbox = Sandbox(project, disk("size=48m") / "sandbox")
    try:
        assert deploy(sandbox, "tight", "one")[0] == "Succeeded"
        yield sandbox
    finally:
        sandbox.project.script("sandbox", "down")


@pytest.mark.slow
def test_whatever_writes_on_a_full_disk_is_told_so_and_works_when_there_is_room(tight):
    writes = {
        "put": lambda s3, key: s3.put_object(Bucket=tight.bucket, Key=key, Body=key * 100),
        "parts": lambda s3, key: s3.create_multipart_upload(Bucket=tight.bucket, Key=key),
        "delete": lambda s3, key: s3.delete_object(Bucket=tight.bucket, Key="old" + key[-1]),
    }
    s3 = tight.client("s3")
    for number in range(10):
        s3.put_object(Bucket=tight.bucket, Key=f"old{number}", Body=b"1")
    refused_writes = dict.fromkeys(writes, 0)
    with ballast(tight.folder.parent):
        for number in range(60):
            for kind, write in writes.items():
                with contextlib.suppress(BotoCoreError):
                    try:
                        write(s3, f"new{number}")
                    except ClientError as error:
                        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 503, error
                        refused_writes[kind] += 1
            if min(refused_writes.values()) >= 10:  # each kind was told often enough
                break
    patient = tight.client("s3", config=PATIENT)
    for write in writes.values():
        write(patient, "afterwards0")
    assert patient.get_object(Bucket=tight.bucket, Key="afterwards0")["Body"].read()


@pytest.mark.slow
def test_a_start_on_a_full_disk_fails_and_leaves_those_alone_who_still_answer(tight):
    os.kill(tight.pid, signal.SIGKILL)
    with ballast(tight.folder.parent):
        assert "is full" in refused(tight.project, tight.folder)
        assert tight.invoke("tight", "1")["Body"].read() == b"one"
    tight.start()
    assert tight.invoke("tight", "1")["Body"].read() == b"one"


@pytest.mark.slow
@pytest.mark.parametrize("change", [-4, 5], ids=["cut", "half an entry more"])
def test_a_volume_whose_index_was_cut_by_a_full_disk_is_read_again(own_sandbox, change):
    for number in range(20):
        own_sandbox.upload(b"%d" % number, f"k{number}")
    own_sandbox.project.script("sandbox", "down")
    indexes = list((own_sandbox.folder / "store" / "data").glob(f"{own_sandbox.bucket}_*.idx"))
    assert indexes
    for index in indexes:
        with open(index, "r+b") as file:
            size = file.seek(0, 2)
            file.truncate(size + change)
    own_sandbox.start()
    s3 = own_sandbox.client("s3")
    for number in range(20):
        found = s3.get_object(Bucket=own_sandbox.bucket, Key=f"k{number}")["Body"].read()
        assert found == b"%d" % number
    own_sandbox.upload(b"more", "more")
    assert s3.get_object(Bucket=own_sandbox.bucket, Key="more")["Body"].read() == b"more"


def test_a_folder_of_the_old_kind_is_told_apart_and_left_as_it_is(project, tmp_path):
    folder = tmp_path / "sandbox"
    old = folder / "s3" / "pulsar-assets" / "model.tar.gz"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"old")
    said = refused(project, folder)
    assert "mv " in said and "make sandbox" in said
    assert old.read_bytes() == b"old"


# -- kills ----------------------------------------------------------------------------


@pytest.mark.slow
def test_kills_under_load_lose_nothing_that_was_acknowledged(own_sandbox):
    """SeaweedFS, the store's process and the sandbox are killed in turn, while objects are written,
    overwritten, uploaded in parts and deleted."""
    acknowledged: dict[str, bytes | None] = {}
    stop = threading.Event()
    patient = {"config": PATIENT}

    def write(number: int) -> None:
        s3 = own_sandbox.client("s3", **patient)
        for count in range(100_000):
            if stop.is_set():
                return
            key = f"{number}/{count % 50}"
            acknowledged.pop(key, None)  # until it is answered, either may be there
            try:
                if count % 7 == 6:
                    s3.delete_object(Bucket=own_sandbox.bucket, Key=key)
                    acknowledged[key] = None
                else:
                    body = b"%d-%d " % (number, count) * (1 if count % 5 else 40_000)
                    s3.put_object(Bucket=own_sandbox.bucket, Key=key, Body=body)
                    acknowledged[key] = body
            except (ClientError, BotoCoreError):
                pass

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    from test_sandbox import processes_of

    end = time.monotonic() + float(os.environ.get("SECONDS", "12"))
    try:
        while time.monotonic() < end:
            for kinds in (("weed",), ("store",), ("server",), ("weed", "store", "server")):
                time.sleep(0.7)
                running = processes_of(own_sandbox.folder)
                for pid in [pid for kind in kinds for pid in running[kind]]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                if "server" in kinds:
                    own_sandbox.start()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert len(acknowledged) > 100
    s3 = own_sandbox.client("s3", **patient)

    def read(key: str) -> bytes | None:
        try:
            return s3.get_object(Bucket=own_sandbox.bucket, Key=key)["Body"].read()
        except s3.exceptions.NoSuchKey:
            return None

    assert {key: read(key) for key in acknowledged} == acknowledged
