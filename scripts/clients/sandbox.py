"""The sandbox of this checkout, from outside: is it there, start it, stop it, how to reach it.

The state folder (.sandbox, or SANDBOX_DIR) holds everything the sandbox knows; SANDBOX_PORT
asks for a port.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from common import ROOT
from common.errors import TargetError
from common.output import say
from common.params import load_params
from orchestrator.version import COMMANDS, started_from

FOLDER = Path(os.environ.get("SANDBOX_DIR", ROOT / ".sandbox")).resolve()
USUAL_PORTS = (8790, 8791)  # the sandbox, S3
KEPT = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV", "WEED")
START_SECONDS = 60
SPARE_BYTES = 2 << 20  # with less, nothing starts, and not even the log says why
STOP_SECONDS = 80


def status() -> dict:
    """What status.json says, corrected for a process that is no longer there."""
    if not (FOLDER / "status.json").exists():
        return {"state": "never started"}
    status = _read("status.json", ("state", "url", "s3_url"))
    if status["state"] == "running" and status.get("pid") not in _pids():
        status["state"] = "dead"
    return status


def _read(name: str, keys: tuple[str, ...]) -> dict:
    """A file of the sandbox's, which holds texts under these keys; TargetError for any other."""
    path = FOLDER / name
    wrong = "something else is in it"
    try:
        found = json.loads(path.read_text())
        if all(isinstance(found[key], str) for key in keys):
            return found
    except OSError as error:
        wrong = error.strerror
    except ValueError:
        wrong = "it is empty, cut or no JSON"
    except (KeyError, TypeError, RecursionError):
        pass
    shown = shlex.quote(_shown(name))
    away = f"mv {shown} {shown}.old && " if path.exists() else ""
    raise TargetError(
        f"{path} is not as the sandbox wrote it: {wrong}", f"{away}make sandbox-down sandbox"
    )


def _pids() -> list[int]:
    """The living sandboxes of this folder, also one that no status.json tells of."""
    command = ["ps", "-ww", "-eo", "pid=,args="]
    try:
        listing = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    except FileNotFoundError:  # a small container of Linux
        listing = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                listing.append(f"{path.parent.name} {path.read_text().replace(chr(0), ' ')}")
    ours = f" -m orchestrator.sandbox {FOLDER} "
    return [int(line.split()[0]) for line in listing if ours in line]


def up() -> dict:
    """Start the sandbox when it is not running, and again when it runs what is no longer wished;
    its status."""
    before = status()
    commands = load_params()["sandbox"]["commands"]
    if before["state"] == "running":
        wished, found = started_from(commands), before.get("started_from")
        found = found if isinstance(found, dict) else {}
        changed = [name for name in wished if found.get(name) != wished[name]]
        if not changed:
            return before
        say(f"sandbox: {' and '.join(changed)} changed; restarting")
        # Killed, it leaves its endpoints answering for the next one to take over.
        _end(signal.SIGKILL if changed == [COMMANDS] else signal.SIGTERM)
    ports = _ports(before)
    # None of the user's own settings and secrets: models are somebody's code.
    kept = {key: os.environ[key] for key in KEPT if key in os.environ}
    try:
        FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
        output = open(FOLDER / "sandbox.log", "ab")
    except OSError as error:
        raise TargetError(
            f"the sandbox cannot write to {FOLDER}: {error.strerror}",
            "SANDBOX_DIR=<another folder> make sandbox",
        ) from None
    with output as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.sandbox", str(FOLDER), *map(str, ports)],
            cwd=ROOT, env=kept | {"SANDBOX_COMMANDS": json.dumps(commands)},
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        now = status()
        if now["state"] == "running" and now["pid"] == process.pid:
            say(f"sandbox: running at {now['url']} (pid {now['pid']}, log {_shown('sandbox.log')})")
            open_ways = [kind for kind, confined in now["confined"].items() if not confined]
            if open_ways:
                say(
                    f"sandbox: models are NOT confined here ({', '.join(open_ways)}): see docs/security.md"
                )
            return now
        if process.poll() is not None:
            if process.returncode == 3:  # somebody else's start came first
                return _wait_for_other(deadline)
            if process.returncode in (4, 5):
                if "SANDBOX_PORT" not in os.environ and "s3_url" not in before:
                    return up()  # it was free a moment ago: another sandbox is being started
                taken = ports[process.returncode - 4]
                raise TargetError(f"port {taken} is taken", "SANDBOX_PORT=<another> make sandbox")
            reason, _, step = _last_line().partition(" Next: ")
            raise TargetError(
                f"the sandbox did not start: {reason}", step or "see " + _shown("sandbox.log")
            )
        time.sleep(0.05)
    process.terminate()
    raise TargetError(
        f"the sandbox did not start in {START_SECONDS} s", "see " + _shown("sandbox.log")
    )


def _wait_for_other(deadline: float) -> dict:
    while time.monotonic() < deadline:
        now = status()
        if now["state"] == "running":
            return now
        time.sleep(0.05)
    raise TargetError(
        f"another process holds {FOLDER}/lock but does not answer", "make sandbox-down"
    )


def _ports(before: dict) -> list[int]:
    """The sandbox's port and S3's: SANDBOX_PORT and the next one, else those it had before, else
    the usual ones or any that are free."""
    if "SANDBOX_PORT" in os.environ:
        return [int(os.environ["SANDBOX_PORT"]), int(os.environ["SANDBOX_PORT"]) + 1]
    if "s3_url" in before:
        return [int(before[key].rpartition(":")[2]) for key in ("url", "s3_url")]
    return [_free(port) for port in USUAL_PORTS]


def _free(usual: int) -> int:
    for port in (usual, 0):
        try:
            with socket.create_server(("127.0.0.1", port)) as probe:
                return probe.getsockname()[1]
        except OSError:
            continue
    raise TargetError("no free port on 127.0.0.1")


def down() -> dict:
    """Stop the sandbox and wait for its end; nothing is lost."""
    if _end(signal.SIGTERM):
        say("sandbox: stopped; its state stays in " + _shown(""))
    return status()


def _end(how: signal.Signals) -> bool:
    """End what runs and wait until it has; whether anything ran."""
    deadline = time.monotonic() + STOP_SECONDS
    running = _pids()
    for pid in running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)
    while pids := _pids():
        if time.monotonic() > deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    return bool(running)


def environment() -> dict[str, str]:
    """What the AWS tools and our own clients need to reach the sandbox."""
    now = status()
    if now["state"] != "running":
        raise TargetError(f"the sandbox is not running ({now['state']})", "make sandbox")
    pair = _read("credentials.json", ("access_key", "secret"))
    return {
        "AWS_ENDPOINT_URL": now["url"],
        "AWS_ENDPOINT_URL_S3": now["s3_url"],
        "AWS_ACCESS_KEY_ID": pair["access_key"],
        "AWS_SECRET_ACCESS_KEY": pair["secret"],
        "AWS_DEFAULT_REGION": "us-east-1",
        "ORCHESTRATOR_URL": f"{now['url']}/prod/",
        "ASSETS_BUCKET": "pulsar-assets",
    }


def _shown(name: str) -> str:
    path = FOLDER / name
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _last_line() -> str:
    if shutil.disk_usage(FOLDER).free < SPARE_BYTES:
        return f"The disk of {FOLDER} is full. Next: free some space, then make sandbox"
    lines = (FOLDER / "sandbox.log").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
