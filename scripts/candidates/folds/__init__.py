"""Read folded candidates as search programs write them: the one place that parses such files.

    candidate.py   what a candidate is, and its eight features
    phcx.py        Pulsar Hunter's XML        pfd.py   PRESTO's prepfold

Nothing in a file is believed: what it announces is checked against what is there before anything is
allocated. A file takes some 100 MB and a second at most, whatever is in it.

It travels in model.tar.gz beside inference.py, so it needs numpy alone and runs on old Pythons.
"""

from __future__ import annotations

import os
import stat
import zlib
from pathlib import Path

from candidates.folds import pfd, phcx
from candidates.folds.candidate import Candidate, Unreadable, features
from candidates.tables import EIGHT, SIX

__all__ = ["MODELS", "SUFFIXES", "Candidate", "Unreadable", "features", "read", "recognised"]
# The scale of a PFD's DM curve is not HTRU2's: two of the eight features mean something else there.
MODELS = {"phcx": EIGHT, "pfd": SIX}
SUFFIXES = (".phcx", ".phcx.gz", ".pfd", ".pfd.gz")
MOST_BYTES = 64 * 1024**2  # of a file
MOST_INFLATED, MOST_MEMBERS = 16 * 1024**2, 1024
PIECE = 65_536
GZIP = b"\x1f\x8b"
SPACE = b" \t\r\n"
BOM = b"\xef\xbb\xbf"


def read(source: bytes | Path) -> Candidate:
    """The candidate in a file or its bytes, of a kind that its content tells, packed by gzip or not.

    Unreadable says why it is none; OSError, why the file cannot be read.
    """
    content = source if isinstance(source, bytes) else _content(source)
    if content.startswith(GZIP):
        content = _inflated(content)
    if not content:
        raise Unreadable("it is empty")
    if _is_xml(content):
        if len(content) > MOST_INFLATED:
            raise Unreadable(f"it is XML of more than {MOST_INFLATED} bytes")
        return phcx.read(content)
    return pfd.read(content)


def recognised(content: bytes) -> bool:
    """Whether a file begins as a candidate file does, and not as a table; it may still be Unreadable."""
    if content.startswith(GZIP):
        try:
            content = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(content[:PIECE], PIECE)
        except zlib.error:
            return False
    return _is_xml(content) or pfd.begins(content)


def _is_xml(content: bytes) -> bool:
    text = content[:1024]
    text = text[len(BOM) if text.startswith(BOM) else 0 :].lstrip(SPACE)
    # A PFD with 60 DMs begins so, too, and goes on with NULs.
    return text.startswith(b"<") and b"\0" not in text[:4]


def _content(path: Path) -> bytes:
    # Not to wait for what is no file: a pipe that is called so.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("it is no file")
        if status.st_size > MOST_BYTES:
            raise Unreadable(f"it is larger than {MOST_BYTES} bytes")
        return file.read(status.st_size)


def _inflated(content: bytes) -> bytes:
    """What gzip has packed, in one member or several."""
    inflated, at = bytearray(), 0
    for _ in range(MOST_MEMBERS):
        member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        while not member.eof:
            piece = content[at : at + PIECE]
            if not piece:
                raise Unreadable("its gzip is cut")
            try:
                inflated += member.decompress(piece, MOST_INFLATED + 1 - len(inflated))
            except zlib.error as error:
                raise Unreadable(f"its gzip is damaged: {error}") from None
            if len(inflated) > MOST_INFLATED:
                raise Unreadable(f"it has more than {MOST_INFLATED} bytes when it is unpacked")
            at += len(piece) - len(member.unused_data)
        if at == len(content):
            return bytes(inflated)
    raise Unreadable(f"its gzip has more than {MOST_MEMBERS} members")
