"""What a model can do to whoever serves it: it is somebody else's code."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from conftest import ROOT, needs_landlock

from scoring.packing import pack

# A model that does what it is told to, and says what came of it.
SPY = """
import json, os, signal, socket, subprocess, sys, threading
def read(path):
    return len(open(path, "rb").read(100))
def write(path):
    open(path, "a").write("x")
def remove(path):
    os.unlink(path)
def look(path):
    return os.listdir(path)
def link(path):
    os.symlink("/etc/passwd", path)
def connect(path):
    socket.socket(socket.AF_UNIX).connect(path)
def dial(port):
    socket.create_connection(("127.0.0.1", port), 2)
def send(port):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", port))
def end(pid):
    os.kill(pid, 0)
def leave(_):
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    return child.pid
def variables(_):
    return dict(os.environ)
def take(size):
    return len(bytearray(size))
def here(_):
    open("scratch", "w").write("x")
    return os.getcwd()
def model_fn(model_dir):
    return model_dir
def transform_fn(model, body, content_type, accept):
    results = []
    for name, argument in json.loads(body):
        try:
            results.append(["done", globals()[name](argument)])
        except BaseException as error:
            results.append([type(error).__name__, str(error)])
    return (json.dumps(results), "application/json")
"""


@pytest.fixture(scope="module")
def spy(sandbox):
    """Ask the model to do things: what came of each."""
    sandbox.upload(pack({"code/inference.py": SPY.encode()}), "spy.tar.gz")
    payload = sandbox.payload("spy", model_artifact_location="spy.tar.gz")
    state, answer = sandbox.wait(sandbox.provision(payload))
    assert state == "Succeeded", answer

    def ask(*wishes: tuple) -> list:
        response = sandbox.invoke("spy", json.dumps(wishes), "application/json")
        return json.loads(response["Body"].read())

    return ask


def pid_of(title: str, folder: Path) -> int:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if command.startswith(title) and str(folder) in command:
            return int(process.name)
    raise AssertionError(f"no {title}")


@needs_landlock
def test_a_model_reads_nothing_of_anybodys(sandbox, spy, endpoint):
    folder = sandbox.folder
    wishes = [("read", str(path)) for path in (
        folder / "credentials.json", folder / "state.db", folder / "sandbox.log",
        *folder.glob(f"logs/{endpoint}.*.log"), folder / "run" / "routes" / endpoint, ROOT / "README.md",
        sandbox.project.folder / "params.yaml", "/etc/shadow", f"/proc/{os.getpid()}/environ",
        f"/proc/{sandbox.pid}/environ", f"/proc/{sandbox.pid}/maps",
    )]  # fmt: skip
    wishes += [("look", str(path)) for path in (folder, folder / "models", folder / "capture",
                                                Path.home(), "/tmp")]  # fmt: skip
    for wish, (outcome, what) in zip(wishes, spy(*wishes), strict=True):
        assert outcome == "PermissionError", (wish, what)


@needs_landlock
def test_a_model_writes_nowhere_but_in_its_own_folder(sandbox, spy):
    folder = sandbox.folder
    other = next(path for path in (folder / "models").rglob("inference.py"))
    places = [folder / "x", folder / "status.json", folder / "state.db", other, ROOT / "x",
              ROOT / "scripts" / "x.py", ROOT / "orchestrator" / "x.py", "/tmp/x", Path.home() / "x"]  # fmt: skip
    wishes = [("write", str(path)) for path in places]
    wishes += [("remove", str(other)), ("remove", str(folder / "lock"))]
    spool = next((folder / "capture" / "spy").glob("*/"))
    wishes += [("link", str(spool / "link.jsonl")), ("write", str(spool.with_suffix(".json")))]
    for wish, (outcome, what) in zip(wishes, spy(*wishes), strict=True):
        assert outcome == "PermissionError", (wish, what)
    [(outcome, place)] = spy(("here", None))
    assert outcome == "done"
    assert Path(place).is_relative_to(folder / "run")


@needs_landlock
def test_a_model_reaches_no_other_process(sandbox, spy):
    run, ports = sandbox.folder / "run", [int(sandbox.url.rpartition(":")[2])]
    ports += [int(sandbox.s3_url.rpartition(":")[2])]
    sockets = [run / "control.sock", *run.glob("*/line"), *run.glob("*/sock")]
    assert len(sockets) > 3
    wishes = [("connect", str(path)) for path in sockets]
    wishes += [("dial", port) for port in ports] + [("send", port) for port in ports]
    pids = [sandbox.pid, os.getpid(), pid_of("sandbox front", sandbox.folder),
            pid_of("sandbox store", sandbox.folder), pid_of("sandbox nursery", sandbox.folder)]  # fmt: skip
    wishes += [("end", pid) for pid in pids]
    for wish, (outcome, what) in zip(wishes, spy(*wishes), strict=True):
        assert outcome == "PermissionError", (wish, what)


def test_a_model_sees_the_variables_it_was_given_and_no_secrets(project, tmp_path):
    from conftest import Project, Sandbox

    secret = {"AWS_SECRET_ACCESS_KEY": "a-secret", "MY_TOKEN": "a-secret"}
    own = Project(project.folder, project.environment | secret)
    sandbox = Sandbox(own, tmp_path / "sandbox")
    try:
        sandbox.upload(pack({"code/inference.py": SPY.encode()}), "spy.tar.gz")
        payload = sandbox.payload("spy", model_artifact_location="spy.tar.gz")
        assert sandbox.wait(sandbox.provision(payload))[0] == "Succeeded"
        wishes = json.dumps([("variables", None), ("read", "/proc/self/environ")])
        answer = sandbox.invoke("spy", wishes, "application/json")["Body"].read().decode()
        assert "SAGEMAKER_PROGRAM" in answer
        assert "a-secret" not in answer
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if str(sandbox.folder) in (process / "cmdline").read_bytes().decode():
                    assert b"a-secret" not in (process / "environ").read_bytes()
            except OSError:
                continue
    finally:
        sandbox.project.script("sandbox", "down")


def test_a_model_cannot_take_all_the_memory(sandbox, spy):
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    [(outcome, _)] = spy(("take", machine))
    assert outcome == "MemoryError"


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
def test_what_a_model_has_started_ends_with_it(sandbox, spy):
    [(outcome, pid)] = spy(("leave", None))
    assert outcome == "done"
    os.kill(pid_of("sandbox endpoint spy", sandbox.folder), signal.SIGKILL)
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_start_says_what_is_confined(sandbox):
    said = sandbox.log()
    assert "models are confined: files, network, processes" in said or "models are NOT" in said


def asked(sandbox) -> tuple[int, int]:
    """Process and port of the command."""
    pid, port = sandbox.invoke("custom", "who")["Body"].read().split()
    return int(pid), int(port)


def test_a_command_that_dies_is_started_again_and_none_is_left(custom):
    sandbox, _ = custom
    first, _ = asked(sandbox)
    os.kill(first, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while True:
        try:
            second, _ = asked(sandbox)
            break
        except Exception:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert second != first
    os.kill(pid_of("sandbox endpoint custom", sandbox.folder), signal.SIGKILL)
    while Path(f"/proc/{second}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{second}").exists()
    assert asked(sandbox)[0] != second


@pytest.mark.skipif(
    subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode != 0,
    reason="there are no network namespaces here",
)
def test_a_commands_port_is_not_open_to_this_machine(custom):
    sandbox, _ = custom
    _, port = asked(sandbox)
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), 2)
