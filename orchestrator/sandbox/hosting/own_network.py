"""A network of its own for a command that stands for a container.

    python orchestrator/sandbox/hosting/own_network.py SOCKET FOLDER COMMAND

A container has a network of its own, in which it serves port 8080. On a bare machine such a port would
answer every local user, and every page that a browser shows. So on Linux the command, started in
FOLDER, gets what a container gets: a network namespace with nothing in it, and in front of it SOCKET,
which is in a folder that nobody else can enter. Elsewhere the port is one of this machine's, and the
log says so. Needs the standard library only.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import os
import shlex
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

PORT = 8080  # a container's
PIECE_BYTES = 65536
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000  # linux/sched.h
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1  # linux/sockios.h, linux/if.h
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    place, folder, command = sys.argv[1:]
    if _is_to_be_had():
        port = _own_network()
    else:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        print(f"The command's port {port} is open to this machine's users.", flush=True)
    try:
        process = subprocess.Popen(
            shlex.split(command), cwd=folder, env=os.environ | {"SAGEMAKER_BIND_TO_PORT": str(port)},
            preexec_fn=_end_with_parent,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        print(f"The command {command!r} cannot be started: {error}", flush=True)
        sys.exit(127)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    sys.exit(asyncio.run(_stand_before(process, place, port)))


def _is_to_be_had() -> bool:
    """Whether there is such a network here. Tried by a child: a system may let a process into one and
    then not let it do anything there, and there is no way back."""
    if sys.platform != "linux":
        return False
    pid = os.fork()
    if pid == 0:
        try:
            _own_network()
            os._exit(0)
        except OSError:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def _own_network() -> int:
    """Go into a network namespace whose loopback is this process's own; the port to listen on."""
    libc, user, group = ctypes.CDLL(None, use_errno=True), os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWNET):  # not for everybody; in a namespace of users of one's own it is
        if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack_from("16xH", fcntl.ioctl(probe, SIOCGIFFLAGS, request))[0]
        fcntl.ioctl(probe, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))
    return PORT


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


async def _stand_before(process: subprocess.Popen, place: str, port: int) -> int:
    """Hand connections to the socket on to the port, until the command ends; its exit code."""

    async def connect(reader, writer) -> None:
        try:
            behind = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_copy(reader, behind[1]), _copy(behind[0], writer))

    server = await asyncio.start_unix_server(connect, place)
    async with server:
        return await asyncio.to_thread(process.wait)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(PIECE_BYTES):
            writer.write(piece)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()


if __name__ == "__main__":
    main()
