"""What strangers can do to the sandbox's address: connections that cost, without a signature."""

import contextlib
import os
import socket
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from orchestrator.sandbox import connections, web
from orchestrator.sandbox.errors import AwsError

HEAD = b"POST /prod/provisionpipeline HTTP/1.1\r\nHost: x\r\n"


def connected(url: str) -> socket.socket:
    place = urlsplit(url)
    connection = socket.create_connection((place.hostname, place.port))
    connection.settimeout(30)
    return connection


def answer_to(url: str, request: bytes) -> bytes:
    """What comes back until the other side closes, or half a second passes."""
    with connected(url) as connection:
        connection.sendall(request)
        connection.settimeout(0.5)
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except TimeoutError:
            pass
        return answer


def is_answered(sandbox) -> bool:
    """Whether a client with a signature gets its answer at once."""
    began = time.monotonic()
    status, _ = sandbox.post("/pipelinestatus", {"pipeline_id": "none"})
    return status == 400 and time.monotonic() - began < 5


def memory(sandbox) -> int:
    """Resident bytes of all the sandbox's fronts and stores."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            title = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if (
                title.startswith(("sandbox front", "sandbox store"))
                and str(sandbox.folder) in title
            ):
                total += int((process / "statm").read_text().split()[1]) * os.sysconf(
                    "SC_PAGE_SIZE"
                )
        except OSError:
            continue
    return total


@pytest.mark.parametrize("place", ["url", "s3_url"])
@pytest.mark.parametrize(
    "piece", [b"x-more: " + b"a" * 8000 + b"\r\n", b"a" * 8000], ids=["headers", "one header"]
)
def test_a_header_without_end_is_cut_off(sandbox, place, piece):
    sent = 0
    with connected(getattr(sandbox, place)) as connection, pytest.raises(OSError):
        connection.sendall(HEAD + b"x-first: ")
        while sent < 50_000_000:
            connection.sendall(piece)
            sent += len(piece)
    assert is_answered(sandbox)


@pytest.mark.slow
def test_a_header_that_comes_a_byte_at_a_time_is_cut_off(sandbox):
    began = time.monotonic()
    with connected(sandbox.url) as one, connected(sandbox.s3_url) as other:
        open_ones = {one, other}
        while open_ones:
            assert time.monotonic() - began < 2 * connections.HEAD_SECONDS
            for connection in list(open_ones):
                try:
                    connection.sendall(b"G")
                except OSError:
                    open_ones.remove(connection)
            time.sleep(0.5)


def test_bodies_of_strangers_are_not_kept(sandbox):
    before, open_ones = memory(sandbox), []
    head = HEAD + b"Content-Length: 6000000\r\n\r\n"
    for signature in (b"", b"Authorization: AWS4-HMAC-SHA256 Credential=A/20260101/us-east-1/"
                      b"execute-api/aws4_request, SignedHeaders=host, Signature=" + b"0" * 64 +
                      b"\r\n"):  # fmt: skip
        for _ in range(50):
            connection = connected(sandbox.url)
            connection.setblocking(False)
            try:
                connection.send(HEAD + signature + head.removeprefix(HEAD) + bytes(1_000_000))
            except OSError:
                pass
            open_ones.append(connection)
    assert is_answered(sandbox)
    assert memory(sandbox) - before < 50_000_000
    for connection in open_ones:
        connection.close()


@pytest.mark.slow
def test_a_body_that_stands_still_is_let_go(sandbox):
    """As one of the store's is, whose signature is in its headers."""
    client = sandbox.client("s3")
    url = client.generate_presigned_url("put_object", {"Bucket": sandbox.bucket, "Key": "still"})
    place = urlsplit(url)
    began = time.monotonic()
    with connected(sandbox.s3_url) as connection:
        head = f"PUT {place.path}?{place.query} HTTP/1.1\r\nHost: {place.netloc}\r\n"
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\nhalf".encode())
        connection.settimeout(3 * connections.STALL_SECONDS)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1000) == b""
    assert time.monotonic() - began >= connections.STALL_SECONDS
    assert "Contents" not in client.list_objects_v2(Bucket=sandbox.bucket, Prefix="still")


def test_a_forms_file_is_not_taken_from_a_stranger(sandbox):
    """The answer comes while the file is still on its way."""
    fields = "".join(
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in {"key": "k", "policy": "e30=", "x-amz-algorithm": "AWS4-HMAC-SHA256",
                            "x-amz-credential": "A/20260101/us-east-1/s3/aws4_request",
                            "x-amz-date": "20260101T000000Z", "x-amz-signature": "0" * 64}.items()
    )  # fmt: skip
    file = '--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    head = (
        f"POST /{sandbox.bucket} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    )
    with connected(sandbox.s3_url) as connection:
        connection.sendall((head + fields + file).encode() + bytes(2_000_000))
        assert connection.recv(1000).startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize("service", ["execute-api", "sagemaker"])
def test_a_body_that_is_too_long_by_far_is_answered_and_let_go(sandbox, service):
    path = "/prod/provisionpipeline" if service == "execute-api" else "/endpoints/x/invocations"
    status, text = sandbox.send(service, "POST", path, bytes(7_000_000))
    assert status == 413, text


def test_a_stranger_who_waits_to_be_told_to_go_on_is_told_no(sandbox):
    answer = answer_to(sandbox.url, HEAD + b"Content-Length: 10\r\nExpect: 100-continue\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"connection: close" in answer.lower()


def test_half_a_body_is_no_request(sandbox):
    """A client that goes away in the middle has asked for nothing."""
    log = sandbox.log()
    for path in (
        b"/prod/provisionpipeline",
        b"/endpoints/x/invocations",
        b"/cloudformation/answers/x",
    ):
        method = b"PUT" if b"answers" in path else b"POST"
        with connected(sandbox.url) as connection:
            connection.sendall(method + b" " + path + b" HTTP/1.1\r\nHost: x\r\n"
                               b"Content-Length: 9\r\n\r\n{}")  # fmt: skip
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(100) == b""
    assert "Traceback" not in sandbox.log().removeprefix(log)


@pytest.mark.slow
def test_idle_connections_lock_nobody_out(project, tmp_path):
    from conftest import Sandbox

    class Limited(Sandbox):
        def start(self) -> None:
            script = 'ulimit -n 1024; exec "$0" scripts/sandbox.py up'
            import sys

            result = self.project.run("bash", "-c", script, sys.executable)
            assert result.returncode == 0, result.stderr
            super().start()

    sandbox = Limited(project, tmp_path / "sandbox")
    try:
        idle = [connected(url) for _ in range(1100) for url in (sandbox.url, sandbox.s3_url)]
        assert is_answered(sandbox)
        sandbox.client("s3").list_buckets()
        for connection in idle:
            connection.close()
    finally:
        sandbox.project.script("sandbox", "down")


def test_the_soft_limit_of_files_is_raised():
    program = (
        "import resource; from orchestrator.sandbox.connections import raise_file_limit, most;"
        "raise_file_limit(); print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], most())"
    )
    import sys

    command = f'ulimit -Sn 256; exec "{sys.executable}" -c "{program}"'
    shown = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    soft, most = map(int, shown.stdout.split())
    assert soft > 256
    assert most > 64


def test_all_bodies_together_are_bounded():
    import asyncio

    async def read() -> list:
        bodies, gate = web.Bodies(most=100), asyncio.Event()

        async def slow() -> dict:
            await gate.wait()
            return {"type": "http.request", "body": b"", "more_body": False}

        def client(size: int):
            messages = [{"type": "http.request", "body": bytes(size), "more_body": True}]

            async def receive() -> dict:
                return messages.pop() if messages else await slow()

            return receive

        waiting = asyncio.create_task(bodies.read(client(60), 1000))
        await asyncio.sleep(0)
        with pytest.raises(AwsError) as refused:
            await bodies.read(client(60), 1000)
        gate.set()
        first = await waiting
        return [refused.value.status, len(first), len(await bodies.read(client(90), 1000))]

    assert asyncio.run(read()) == [503, 60, 90]
