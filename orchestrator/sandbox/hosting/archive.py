"""Unpack a model.tar.gz that somebody uploaded, without trusting it.

    python -m orchestrator.sandbox.hosting.archive ARCHIVE FOLDER BYTES MEMBERS

In a process of its own that may write nowhere else, no more than that, and not for long: a reader of hostile files may
have faults that are not known yet.
"""

import errno
import gzip
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

from orchestrator.sandbox.hosting import confinement

MAX_BYTES = 2 * 1024**3  # unpacked; SageMaker's own limit depends on the instance's disk
MAX_MEMBERS = 10_000
MAX_DEPTH = 32  # folders within folders
MAX_EXTENSION = 65536  # bytes of an extended header: a long name, for one
MAX_EXTENSIONS = 4  # that one member may have
MEMORY_BYTES = 512 * 1024**2
SECONDS = 120
CHUNK = 1024 * 1024
EXTENSIONS = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip


GZIP = b"\x1f\x8b"
KINDS = {
    b"PK": "a zip archive", b"BZh": "compressed by bzip2", b"\xfd7zXZ": "compressed by xz",
    b"(\xb5/\xfd": "compressed by zstd", b"7z\xbc\xaf": "a 7z archive", b"Rar!": "a rar archive",
    b"\x80": "a pickle, not an archive with one", b"version https://git-lfs": "a pointer of Git LFS, not the file",
    b"<": "a web page",
}  # fmt: skip


class BadArchive(Exception):
    """The archive cannot be unpacked, or must not be."""


def unpack(archive: Path, folder: Path) -> None:
    """Unpack `archive` into the new `folder`, in a process of its own.

    Only files and folders are unpacked, with plain permissions. Raises BadArchive for
    anything else: absolute paths, paths that leave the folder, links, devices, more than any of the
    limits above, or a file that is no gzip-compressed tar at all.
    """
    folder.mkdir(parents=True)
    places = [str(archive.resolve()), str(folder.resolve())]
    command = [sys.executable, "-m", __name__, *places, str(MAX_BYTES), str(MAX_MEMBERS)]
    try:
        done = subprocess.run(
            command, cwd=confinement.ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise BadArchive(f"unpacking it takes more than {SECONDS} s") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise BadArchive(said)


def main() -> None:
    archive, folder = map(Path, sys.argv[1:3])
    most, members = map(int, sys.argv[3:])
    confinement.confine(
        {archive: confinement.READ_FILE, folder: confinement.WORK}, MEMORY_BYTES, most
    )
    try:
        extract(archive, folder, most, members)
    except BadArchive as error:
        sys.exit(str(error))
    except (MemoryError, RecursionError) as error:
        sys.exit(f"it takes too much to read it ({type(error).__name__})")


def extract(archive: Path, folder: Path, most: int, most_members: int) -> None:
    """What `unpack` does, in this process, into a folder that is there."""
    written = members = 0
    try:
        # A stream, read as it is unpacked: a bomb is stopped where it passes the limit.
        with (
            gzip.open(archive) as stream,
            tarfile.open(fileobj=stream, mode="r|", tarinfo=_header()) as tar,
        ):
            for member in tar:
                members += 1
                if members > most_members:
                    raise BadArchive(f"it holds more than {most_members} files")
                target = _inside(folder, member.name)
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                if not member.isreg() or member.issparse():
                    raise BadArchive(f"{member.name!r} is a link or a device, not a file")
                target.parent.mkdir(parents=True, exist_ok=True)
                source = tar.extractfile(member)
                with open(target, "xb") as file:
                    while chunk := source.read(CHUNK):
                        written += len(chunk)
                        if written > most:
                            raise BadArchive(f"it unpacks to more than {most} bytes")
                        file.write(chunk)
                tar.members.clear()  # tarfile keeps them all
            # On to the end of the stream, where the check sum is.
            while chunk := stream.read(CHUNK):
                written += len(chunk)
                if written > most:
                    raise BadArchive(f"it unpacks to more than {most} bytes")
    except FileExistsError as error:
        raise BadArchive(f"it holds {Path(error.filename).name!r} twice") from None
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError, UnicodeError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise BadArchive("the disk is full") from None
        raise BadArchive(f"{_kind_of(archive)} ({error})") from None


def _kind_of(archive: Path) -> str:
    """What a file is that cannot be unpacked, and how it is packed instead."""
    with open(archive, "rb") as file:
        head = file.read(tarfile.BLOCKSIZE)
    if not head:
        return "the file is empty"
    if head.startswith(GZIP):
        return "it is not a tar archive that gzip has compressed, or not all of one"
    kinds = (kind for beginning, kind in KINDS.items() if head.startswith(beginning))
    kind = (
        "a tar archive that is not compressed" if head[257:262] == b"ustar" else next(kinds, None)
    )
    return f"it is {kind or 'no archive'}; pack it with tar -czf model.tar.gz"


def _header() -> type[tarfile.TarInfo]:
    """tarfile's reader of headers, with limits: it reads an extended header whole, be it a GiB, and
    one within the other without end."""
    in_a_row = 0

    class Header(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, *arguments) -> tarfile.TarInfo:
            nonlocal in_a_row
            header = super().frombuf(*arguments)
            if header.type not in EXTENSIONS:
                in_a_row = 0
                return header
            in_a_row += 1
            if header.size > MAX_EXTENSION or in_a_row > MAX_EXTENSIONS:
                raise BadArchive("its extended headers are too long")
            return header

    return Header


def _inside(folder: Path, name: str) -> Path:
    """The path of a member below `folder`; BadArchive when it would be elsewhere."""
    parts = Path(name).parts
    if "\\" in name:
        raise BadArchive(f"the path {name!r} has backslashes: pack it with tar -czf model.tar.gz")
    if not name or "\0" in name or Path(name).is_absolute() or ".." in parts:
        raise BadArchive(f"the path {name!r} leaves the archive")
    if len(parts) > MAX_DEPTH:
        raise BadArchive(f"it holds more than {MAX_DEPTH} folders within each other")
    return folder.joinpath(*parts)


if __name__ == "__main__":
    main()
