"""That the store has no way in but the gate: every port of its is knocked at, at every start.

A missing or misread security.toml leaves everything open without a word, so that it was written is
no proof. Each check is one that succeeds on a SeaweedFS as it comes.
"""

import http.client
import socket
import ssl

SECONDS = 5
# The client's preface and an empty SETTINGS frame (RFC 9113, 3.4 and 6.5).
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
SETTINGS_TYPE = 4
DOORS = (  # part, method, path: what must be refused without a key
    ("s3", "GET", "/"),
    ("s3", "PUT", "/proof"),
    ("volume", "GET", "/1,01637037d6"),
    ("volume", "POST", "/1,01637037d6"),
    ("filer", "GET", "/"),
    ("filer", "PUT", "/proof"),
    ("master", "GET", "/dir/assign"),
    ("master", "GET", "/vol/grow?count=1"),
    ("master", "POST", "/submit"),
    ("master", "GET", "/col/delete?collection=proof"),
)


def ways_in(ports: dict[str, int]) -> list[str]:
    """What stands open, in words; nothing when all is closed."""
    found = [f"{method} {path} on the {part}'s port" for part, method, path in DOORS
             if _is_open(ports[part], method, path)]  # fmt: skip
    for name, port in ports.items():
        if name.endswith("grpc") and (_speaks_plain(port) or _takes_anyone(port)):
            found.append(f"{name} without a certificate")
    return found


def _is_open(port: int, method: str, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request(method, path, body=b"proof" if method != "GET" else None)
        return connection.getresponse().status not in (401, 403, 404, 405)
    except http.client.HTTPException:
        return False
    finally:
        connection.close()


def _speaks_plain(port: int) -> bool:
    """Whether gRPC is spoken without TLS."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
        return _settings_come(connection)


def _takes_anyone(port: int) -> bool:
    """Whether TLS is spoken with a client that has no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as plain,
            context.wrap_socket(plain) as connection,
        ):
            return _settings_come(connection)
    except (ssl.SSLError, OSError):
        return False


def _settings_come(connection: socket.socket) -> bool:
    try:
        connection.sendall(PREFACE)
        answer = connection.recv(9)
    except (TimeoutError, ssl.SSLError, ConnectionError):
        return False
    return len(answer) >= 4 and answer[3] == SETTINGS_TYPE
