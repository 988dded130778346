"""How a package is made of its files: the same bytes for the same content."""

import gzip
import io
import tarfile


def pack(members: dict[str, bytes]) -> bytes:
    """A gzip-compressed tar of files by name: sorted, no times, no owners."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(members):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(members[name]), 0o644
            tar.addfile(info, io.BytesIO(members[name]))
    return gzip.compress(buffer.getvalue(), compresslevel=6, mtime=0)
