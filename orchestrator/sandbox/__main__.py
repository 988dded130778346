"""The sandbox: S3, CloudFormation, SageMaker and the orchestrator at one loopback address.

    python -m orchestrator.sandbox FOLDER PORT   (or: make sandbox)

FOLDER keeps everything: objects, models, stacks, captured data, logs, credentials.
"""

import fcntl
import json
import logging
import os
import socket
import sys
from pathlib import Path

import uvloop

from orchestrator.sandbox.process import warm_up


def main() -> None:
    """Exit codes: 0 stopped, 3 the folder is another sandbox's, 4 the port is taken."""
    folder, port = Path(sys.argv[1]).resolve(), int(sys.argv[2])
    commands = json.loads(os.environ.get("SANDBOX_COMMANDS", "{}"))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.raiseExceptions = False  # a log that cannot be written is no reason to fail
    logging.getLogger("botocore").setLevel(logging.WARNING)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = open(folder / "lock", "w")  # held until the process ends, however it ends
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(3)
    try:
        listener = socket.create_server(("127.0.0.1", port), reuse_port=False)
        # Head and body of an answer are two writes: without this the second waits 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        sys.exit(4)
    warm_up()
    from orchestrator.sandbox.server import serve  # takes a while: the other process as well

    uvloop.run(serve(folder, listener, commands))


if __name__ == "__main__":
    main()
