"""The answer of InvokeEndpointWithResponseStream: AWS's event stream, as botocore.eventstream reads it.

A message is its length, its headers' length and the CRC32 of both; headers; payload; the CRC32 of all
before it. Numbers are big-endian, a header is a name and a string (type 7).
"""

from zlib import crc32

CONTENT_TYPE = "application/vnd.amazon.eventstream"
PART_BYTES = 65536
STRING = b"\x07"


def parts(body: bytes) -> bytes:
    """A body as PayloadPart events."""
    pieces = [body[at : at + PART_BYTES] for at in range(0, len(body), PART_BYTES)]
    return b"".join(_message(PART_HEADERS, piece) for piece in pieces)


def _message(headers: bytes, payload: bytes) -> bytes:
    prelude = _number(16 + len(headers) + len(payload)) + _number(len(headers))
    message = prelude + _number(crc32(prelude)) + headers + payload
    return message + _number(crc32(message))


def _number(value: int) -> bytes:
    return value.to_bytes(4, "big")


def _header(name: str, value: str) -> bytes:
    size = len(value).to_bytes(2, "big")
    return bytes([len(name)]) + name.encode() + STRING + size + value.encode()


PART_HEADERS = (
    _header(":message-type", "event")
    + _header(":event-type", "PayloadPart")
    + _header(":content-type", "application/octet-stream")
)
