"""Unpack a model.tar.gz that somebody uploaded, without trusting it."""

import errno
import gzip
import tarfile
import zlib
from pathlib import Path

MAX_BYTES = 2 * 1024**3  # unpacked; SageMaker's own limit depends on the instance's disk
MAX_MEMBERS = 10_000
CHUNK = 1024 * 1024


class BadArchive(Exception):
    """The archive cannot be unpacked, or must not be."""


def unpack(archive: Path, folder: Path) -> None:
    """Unpack `archive` into the new `folder`.

    Only files and folders are unpacked, with plain permissions. Raises BadArchive for
    anything else: absolute paths, paths that leave the folder, links, devices, more than
    MAX_BYTES or MAX_MEMBERS, or a file that is no gzip-compressed tar at all.
    """
    folder.mkdir(parents=True)
    written = members = 0
    try:
        # A stream, read as it is unpacked: a bomb is stopped where it passes the limit.
        with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                members += 1
                if members > MAX_MEMBERS:
                    raise BadArchive(f"it holds more than {MAX_MEMBERS} files")
                target = _inside(folder, member.name)
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                if not member.isreg():
                    raise BadArchive(f"{member.name!r} is a link or a device, not a file")
                target.parent.mkdir(parents=True, exist_ok=True)
                source = tar.extractfile(member)
                with open(target, "xb") as file:
                    while chunk := source.read(CHUNK):
                        written += len(chunk)
                        if written > MAX_BYTES:
                            raise BadArchive(f"it unpacks to more than {MAX_BYTES} bytes")
                        file.write(chunk)
            # On to the end of the stream, where the check sum is.
            while chunk := stream.read(CHUNK):
                written += len(chunk)
                if written > MAX_BYTES:
                    raise BadArchive(f"it unpacks to more than {MAX_BYTES} bytes")
    except FileExistsError as error:
        raise BadArchive(f"it holds {Path(error.filename).name!r} twice") from None
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError, UnicodeError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise BadArchive("the disk is full") from None
        raise BadArchive(f"it is not a gzip-compressed tar archive: {error}") from None


def _inside(folder: Path, name: str) -> Path:
    """The path of a member below `folder`; BadArchive when it would be elsewhere."""
    parts = Path(name).parts
    if not name or "\0" in name or "\\" in name or Path(name).is_absolute() or ".." in parts:
        raise BadArchive(f"the path {name!r} leaves the archive")
    return folder.joinpath(*parts)
