"""Start, stop and look at the sandbox: AWS's part of the work, on this machine, for nothing.

    python scripts/sandbox.py up | down | show | env

`env` prints the variables that aws, boto3 and curl need: eval "$(make -s env)".
The state folder (.sandbox, or SANDBOX_DIR) holds everything the sandbox knows; SANDBOX_PORT
asks for a port. One background process, on loopback only, its log in sandbox.log.
"""

import argparse
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from common import ROOT, TargetError, load_params, print_json, run, say

FOLDER = Path(os.environ.get("SANDBOX_DIR", ROOT / ".sandbox")).resolve()
USUAL_PORT = 8790
START_SECONDS = 60
STOP_SECONDS = 80


def status() -> dict:
    """What status.json says, corrected for a process that is no longer there."""
    try:
        status = json.loads((FOLDER / "status.json").read_text())
    except FileNotFoundError:
        return {"state": "never started"}
    if status["state"] == "running" and not _is_running(status["pid"]):
        status["state"] = "dead"
    return status


def _is_running(pid: int) -> bool:
    """Whether the pid is a living sandbox of this folder, and not some other process."""
    try:
        command = subprocess.run(
            ["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True
        ).stdout
    except FileNotFoundError:  # no ps: trust the pid
        command = f"orchestrator.sandbox {FOLDER}" if Path(f"/proc/{pid}").exists() else ""
    return f"orchestrator.sandbox {FOLDER}" in command


def up() -> dict:
    """Start the sandbox when it is not running; its status."""
    before = status()
    if before["state"] == "running":
        return before
    port = _port(before)
    FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
    commands = json.dumps(load_params()["sandbox"]["commands"])
    with open(FOLDER / "sandbox.log", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.sandbox", str(FOLDER), str(port)],
            cwd=ROOT, env=os.environ | {"SANDBOX_COMMANDS": commands},
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        now = status()
        if now["state"] == "running" and now["pid"] == process.pid:
            say(f"sandbox: running at {now['url']} (pid {now['pid']}, log {_shown('sandbox.log')})")
            return now
        if process.poll() is not None:
            if process.returncode == 3:  # somebody else's start came first
                return _wait_for_other(deadline)
            if process.returncode == 4:
                raise TargetError(f"port {port} is taken", "SANDBOX_PORT=<another> make sandbox")
            raise TargetError(
                f"the sandbox did not start: {_last_line()}", "see " + _shown("sandbox.log")
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


def _port(before: dict) -> int:
    """SANDBOX_PORT, else the port it had before, else the usual one or any free one."""
    if "SANDBOX_PORT" in os.environ:
        return int(os.environ["SANDBOX_PORT"])
    if "url" in before:
        return int(before["url"].rpartition(":")[2])
    for port in (USUAL_PORT, 0):
        try:
            with socket.create_server(("127.0.0.1", port)) as probe:
                return probe.getsockname()[1]
        except OSError:
            continue
    raise TargetError("no free port on 127.0.0.1")


def down() -> dict:
    """Stop the sandbox and wait for its end; nothing is lost."""
    now = status()
    if now["state"] == "running":
        os.kill(now["pid"], signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while _is_running(now["pid"]):
            if time.monotonic() > deadline:
                os.kill(now["pid"], signal.SIGKILL)
            time.sleep(0.05)
        say("sandbox: stopped; its state stays in " + _shown(""))
    return status()


def environment() -> dict[str, str]:
    """What the AWS tools and our own clients need to reach the sandbox."""
    now = status()
    if now["state"] != "running":
        raise TargetError(f"the sandbox is not running ({now['state']})", "make sandbox")
    pair = json.loads((FOLDER / "credentials.json").read_text())
    return {
        "AWS_ENDPOINT_URL": now["url"],
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
    lines = (FOLDER / "sandbox.log").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=("up", "down", "show", "env"))
    parser.add_argument("--json", action="store_true", help="print the status as JSON")
    arguments = parser.parse_args()
    if arguments.verb == "env":
        variables = environment()
        if arguments.json:
            print_json(variables)
        else:
            print("\n".join(f"export {k}={shlex.quote(v)}" for k, v in variables.items()))
        return 0
    now = {"up": up, "down": down, "show": status}[arguments.verb]()
    if arguments.json:
        print_json(now)
    elif arguments.verb == "show":
        print("sandbox:", now["state"], now.get("url", "") if now["state"] == "running" else "")
    return 0


if __name__ == "__main__":
    run(main)
