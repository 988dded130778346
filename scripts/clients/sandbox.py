"""The sandbox of this checkout, from outside: is it there, start it, stop it, how to reach it.

The state folder (.sandbox, or SANDBOX_DIR) holds everything the sandbox knows; SANDBOX_PORT
asks for a port.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from common import ROOT
from common.errors import TargetError
from common.output import say
from common.params import load_params
from orchestrator.version import COMMANDS, started_from

OWN_FOLDER = Path(os.path.realpath(ROOT / ".sandbox"))
FOLDER = Path(os.path.realpath(os.path.expanduser(os.environ.get("SANDBOX_DIR") or OWN_FOLDER)))
REGION = "us-east-1"
USUAL_PORTS = (8790, 8791)  # the sandbox, S3
KEPT = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV", "WEED")
START_SECONDS = 60
SPARE_BYTES = 2 << 20  # with less, nothing starts, and not even the log says why
STOP_SECONDS = 80


def status() -> dict:
    """What status.json says, corrected for a process that is no longer there."""
    if not os.path.exists(FOLDER / "status.json"):
        return {"state": "never started"}
    status = _read("status.json", ("state", "url", "s3_url"))
    try:
        _port_of(status["url"]), _port_of(status["s3_url"])
    except ValueError as error:
        raise _not_ours("status.json", str(error)) from None
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
    raise _not_ours(name, wrong)


def _not_ours(name: str, wrong: str) -> TargetError:
    path, shown = FOLDER / name, shlex.quote(_shown(name))
    away = f"mv {shown} {shown}.old && " if os.path.exists(path) else ""
    return TargetError(
        f"{path} is not as the sandbox wrote it: {wrong}", f"{away}make sandbox-down sandbox"
    )


def _pids() -> list[int]:
    """The living sandboxes of this folder, also one that no status.json tells of."""
    ours = f" -m orchestrator.sandbox {FOLDER} "
    return [int(line.split()[0]) for line in _processes() if ours in line]


def _processes() -> list[str]:
    """Every process of this machine: its id and its command."""
    command = ["ps", "-ww", "-eo", "pid=,args="]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    except FileNotFoundError:  # a small container of Linux
        listing = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                listing.append(f"{path.parent.name} {path.read_text().replace(chr(0), ' ')}")
        return listing


def other_than_own(url: str) -> str | None:
    """Folder, or else address, of the sandbox at a URL; None for the one of this checkout."""
    with contextlib.suppress(TargetError):
        now = status()
        if FOLDER == OWN_FOLDER and now["state"] == "running" and now["url"] == url:
            return None
    at_port = rf" -m orchestrator\.sandbox (.+) {_port_of(url)} [0-9]+\s*$"
    found = [match[1] for line in _processes() if (match := re.search(at_port, line))]
    return found[0] if found else url


def up() -> dict:
    """Start the sandbox when it is not running, and again when it runs what is no longer wished;
    its status."""
    before = status()
    commands = load_params()["sandbox"]["commands"]
    if before["state"] == "running":
        wished, found = started_from(commands), before.get("started_from")
        found = found if isinstance(found, dict) else {}
        changed = [name for name in wished if found.get(name) != wished[name]]
        if _asked_port() not in (None, _port_of(before["url"])):
            changed.append("SANDBOX_PORT")
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
        reason = "it is a file" if FOLDER.is_file() else error.strerror
        raise TargetError(
            f"the sandbox cannot write to {FOLDER}: {reason}",
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
                if _asked_port() is None and "s3_url" not in before:
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
    port = _asked_port()
    if port is not None:
        return [port, port + 1]
    if "s3_url" in before:
        return [_port_of(before[key]) for key in ("url", "s3_url")]
    return [_free(port) for port in USUAL_PORTS]


def _asked_port() -> int | None:
    """SANDBOX_PORT; TargetError when it is none, or when there is none after it for S3."""
    asked = os.environ.get("SANDBOX_PORT")
    if not asked:
        return None
    if not re.fullmatch(r"[0-9]{1,5}", asked) or not 1 <= int(asked) < 65535:
        raise TargetError(
            f"SANDBOX_PORT must be a port from 1 to 65534, not {asked!r}: S3 gets the next one",
            "SANDBOX_PORT=8790 make sandbox",
        )
    return int(asked)


def _port_of(url: str) -> int:
    """The port in a URL; ValueError when it names none."""
    port = urlsplit(url).port
    if not port:
        raise ValueError(f"{url} names no port")
    return port


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
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
        # Nothing of the user's own account: a profile, an endpoint, a file that cannot be read. DVC
        # wants a file that is there.
        "AWS_CONFIG_FILE": str(_empty_file()),
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "ORCHESTRATOR_URL": f"{now['url']}/prod/",
        "ASSETS_BUCKET": "pulsar-assets",
        "NO_PROXY": os.environ["NO_PROXY"],
        "no_proxy": os.environ["no_proxy"],
    }


def _empty_file() -> Path:
    path = FOLDER / "empty"
    path.touch(mode=0o600)
    return path


def in_the_way(environment: dict[str, str]) -> list[str]:
    """The shell's own AWS_ variables that would lead the tools elsewhere, or nowhere."""
    harmless = ("AWS_PAGER", "AWS_DEFAULT_OUTPUT", "AWS_CLI_", "AWS_CA_BUNDLE")
    names = (key for key in os.environ if key.startswith("AWS_") and not key.startswith(harmless))
    return sorted(set(names) - environment.keys())


def _shown(name: str) -> str:
    path = FOLDER / name
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _last_line() -> str:
    if shutil.disk_usage(FOLDER).free < SPARE_BYTES:
        return f"The disk of {FOLDER} is full. Next: free some space, then make sandbox"
    lines = (FOLDER / "sandbox.log").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
