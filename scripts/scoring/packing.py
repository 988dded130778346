"""How a package is made of its files, the same bytes for the same content; and how one of them is
read again."""

import gzip
import io
import tarfile
import zlib
from typing import BinaryIO

SEARCHED_BYTES = 2 * 1024**3  # how far an archive is unpacked in search of a file
CHUNK = 1024 * 1024


def pack(members: dict[str, bytes]) -> bytes:
    """A gzip-compressed tar of files by name: sorted, no times, no owners."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(members):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(members[name]), 0o644
            tar.addfile(info, io.BytesIO(members[name]))
    return gzip.compress(buffer.getvalue(), compresslevel=6, mtime=0)


def member(archive: BinaryIO, name: str, most: int) -> bytes | None:
    """The content of one file in a package, None when there is none, or more than `most` bytes.

    Nothing in the archive is believed: what is no package of ours has no such file, whatever else it
    is, and neither memory nor time grow with the sizes that it claims.
    """
    try:
        with gzip.open(archive) as stream:
            while stream.tell() < SEARCHED_BYTES:
                info = tarfile.TarInfo.frombuf(stream.read(tarfile.BLOCKSIZE), "utf-8", "replace")
                if info.name == name and info.isreg():
                    content = stream.read(info.size) if 0 <= info.size <= most else b""
                    return content if len(content) == info.size else None
                _skip(stream, -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError):
        pass
    return None


def _skip(stream: BinaryIO, count: int) -> None:
    """Read past so many bytes; EOFError where there are fewer, or the search has gone too far."""
    while count > 0:
        passed = len(stream.read(min(count, CHUNK)))
        if not passed or stream.tell() > SEARCHED_BYTES:
            raise EOFError
        count -= passed
