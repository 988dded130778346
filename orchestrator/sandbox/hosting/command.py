"""A user's own serving command in the place of a custom image: started, watched and asked."""

import asyncio
import contextlib
import os
import subprocess
import sys
from pathlib import Path

from orchestrator.sandbox.hop import Broken, Hop
from orchestrator.sandbox.hosting import own_network
from orchestrator.sandbox.hosting.container import ContainerFailed
from orchestrator.sandbox.web import Answer, encoded

COMMAND_SECONDS = 45  # how long it may take to answer its first ping
END_SECONDS = 10  # from its signal to its end
SOCKET = "command"  # in the working directory
NOT_FORWARDED = ("host", "content-length", "connection", "transfer-encoding")


class Command:
    """The command, started and asked.

    It must listen on 127.0.0.1 at the port in SAGEMAKER_BIND_TO_PORT, and finds the
    unpacked model in the folder SM_MODEL_DIR, which is also where it is started.
    """

    tells_parameters = True  # or answers that it does not know the path

    def __init__(self, command: str, model_dir: Path, environment: dict[str, str]) -> None:
        self._hop = Hop(SOCKET)
        self._process = subprocess.Popen(
            [sys.executable, own_network.__file__, SOCKET, str(model_dir), command],
            env=os.environ | environment | {"SM_MODEL_DIR": str(model_dir)},
            stdin=subprocess.DEVNULL, stdout=sys.stderr,
        )  # fmt: skip

    async def started(self) -> None:
        """Wait for the first ping that succeeds."""
        for _ in range(COMMAND_SECONDS * 10):
            self.check()
            with contextlib.suppress(OSError, Broken):
                if (await self.ping()).status == 200:
                    return
            await asyncio.sleep(0.1)
        raise ContainerFailed(f"The command did not answer /ping within {COMMAND_SECONDS} s.")

    def check(self) -> None:
        """ContainerFailed when the command has ended."""
        if self._process.poll() is not None:
            raise ContainerFailed(f"The command ended with exit code {self._process.returncode}.")

    async def ping(self) -> Answer:
        return await self._forward("GET", "/ping", {}, b"")

    async def execution_parameters_async(self) -> Answer:
        return await self._forward("GET", "/execution-parameters", {}, b"")

    async def invoke_async(self, headers: dict, body: bytes, content_type: str) -> Answer:
        return await self._forward("POST", "/invocations", headers, body)

    async def _forward(self, method: str, path: str, headers: dict, body: bytes) -> Answer:
        kept = [(k, encoded(v)) for k, v in headers.items() if k not in NOT_FORWARDED]
        reply = await self._hop.ask(method, path, kept, body)
        content_type = dict(reply.headers).get(b"content-type", b"application/octet-stream")
        return Answer(reply.status, content_type.decode("latin-1"), reply.body)

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
