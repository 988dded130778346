"""Tables of candidates from where people have them: a file or standard input, plain or packed.

gzip, bzip2, xz, zip with one table in it, and Parquet are recognised by their first bytes; text in
any encoding comes out as UTF-8, a chunk at a time, so that a file of any size takes little memory.
"""

import argparse
import bz2
import codecs
import gzip
import io
import lzma
import os
import shutil
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from candidates import tables
from candidates.tables import BadTable, Layout, Rows
from common.errors import BadData

CHUNK = 1024 * 1024
MAX_BYTES = 1_000_000_000  # of a table that is read as a whole
PUBLISHED = "HTRU_2.csv"  # the table in HTRU2's own archive, which has others
DAMAGED = (
    OSError, EOFError, ValueError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile
)  # fmt: skip
UNPACKERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}


@contextmanager
def opened(place: str | Path) -> Iterator[tuple[io.BufferedIOBase, int | None]]:
    """A binary stream over a path, or `-` for standard input, and its size where it is known."""
    if str(place) == "-":
        yield sys.stdin.buffer, None
        return
    try:
        file = open(Path(place).expanduser(), "rb")
    except OSError as error:
        raise BadData(f"{place}: {error.strerror}") from None
    with file:
        yield file, os.fstat(file.fileno()).st_size


def read(
    place: str | Path, kurtosis: str | None = None, drop_bad: bool = False
) -> tuple[Layout, Rows]:
    """A table as a whole. BadData says what is wrong with it, and where."""
    with opened(place) as (stream, _):
        name = "standard input" if str(place) == "-" else Path(place).name
        return read_stream(stream, name, kurtosis, drop_bad)


def read_stream(
    stream, name: str, kurtosis: str | None = None, drop_bad: bool = False
) -> tuple[Layout, Rows]:
    content = io.BytesIO()
    for chunk in Chunks(stream, name):
        content.write(chunk)
        if content.tell() > MAX_BYTES:
            raise BadData(
                f"{name}: more than {MAX_BYTES} bytes of text", "make score takes any size"
            )
    with refused(name):
        return tables.read(content.getvalue().decode(errors="replace"), kurtosis, drop_bad)


def labelled(found: Layout, rows: Rows, name: str) -> np.ndarray:
    """Features and class of a table's candidates, an array (n, 9). BadData where a class is missing."""
    if found.label is None:
        raise BadData(f"{name}: no column holds the class (0 or 1); name one {tables.LABEL}")
    unknown = np.flatnonzero(np.isnan(rows.truth))
    if len(unknown):
        raise BadData(
            f"{name}: row {unknown[0] + 1}: the class is missing ({len(unknown)} such rows)"
        )
    return np.column_stack([rows.values, rows.truth])


@contextmanager
def refused(name: str) -> Iterator[None]:
    """What is wrong with a table, as an error of the file that it is in."""
    try:
        yield
    except BadTable as error:
        remedy = "correct them, or go on without them: --drop-bad" if error.rows else ""
        raise BadData(f"{name}: {error}", remedy) from None


def add_reading(parser: argparse.ArgumentParser) -> None:
    """The options of every command that reads a table."""
    parser.add_argument(
        "--drop-bad", action="store_true", help="go on without the rows that cannot be read"
    )
    parser.add_argument(
        "--kurtosis", choices=(tables.EXCESS, tables.PEARSON),
        help="which one the table has; default: excess, as the model knows it, and a look at it",
    )  # fmt: skip


class Chunks:
    """The text of a binary stream in UTF-8, a chunk at a time; `taken` counts the stream's own bytes.

    BadData when it is damaged, or of a kind that is not read.
    """

    def __init__(self, stream, name: str) -> None:
        self._stream, self._name, self.taken = stream, name, 0
        self._head = b""

    def read(self, size: int = -1) -> bytes:
        """What the unpackers call."""
        if self._head:
            size = len(self._head) if size < 0 else size
            content, self._head = self._head[:size], self._head[size:]
            return content
        content = self._stream.read(size)
        self.taken += len(content)
        return content

    def seekable(self) -> bool:
        return False

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from _in_utf8(self._unpacked())
        except BadTable as error:
            raise BadData(f"{self._name}: {error}") from None
        except DAMAGED as error:
            raise BadData(f"{self._name}: it cannot be read: {error}") from None

    def _unpacked(self) -> Iterator[bytes]:
        self._head = start = self.read(CHUNK)
        for magic, unpacker in UNPACKERS.items():
            if start.startswith(magic):
                yield from _chunks(unpacker(self))
                return
        if start.startswith((b"PK\x03\x04", b"PAR1")):
            with tempfile.TemporaryFile() as file:  # both are read from their ends
                shutil.copyfileobj(self, file, CHUNK)
                yield from _from_zip(file) if start[:2] == b"PK" else _from_parquet(file)
            return
        yield from _chunks(self)


def _chunks(stream) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK):
        yield chunk


def _from_zip(file) -> Iterator[bytes]:
    with zipfile.ZipFile(file) as archive:
        names = [n for n in archive.namelist() if not n.endswith("/") and "__MACOSX" not in n]
        if "xl/workbook.xml" in names:
            raise BadTable("it is an Excel workbook: save the sheet as CSV")
        inside = [n for n in names if Path(n).name == PUBLISHED] or [
            n for n in names if n.lower().endswith((".csv", ".tsv", ".txt", ".dat", ".arff"))
        ]
        if len(inside) != 1:
            found = ", ".join(inside or names)[:200] or "nothing"
            raise BadTable(f"the archive must hold one table, it holds {found}")
        with archive.open(inside[0]) as member:
            yield from _chunks(member)


def _from_parquet(file) -> Iterator[bytes]:
    import pyarrow as pa  # takes a while
    from pyarrow import csv, parquet

    header = True
    for batch in parquet.ParquetFile(file).iter_batches():
        columns = [
            column.cast(pa.float64()) if pa.types.is_floating(column.type) else column
            for column in batch.columns
        ]
        buffer = io.BytesIO()
        table = pa.table(columns, names=batch.schema.names)
        csv.write_csv(table, buffer, csv.WriteOptions(include_header=header))
        header = False
        yield buffer.getvalue()


def _in_utf8(chunks: Iterator[bytes]) -> Iterator[bytes]:
    head = next(chunks, b"")
    encoding = tables.encoding_of(head)
    if encoding == "utf-8":
        yield head
        yield from chunks
        return
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    yield decoder.decode(head).encode()
    for chunk in chunks:
        yield decoder.decode(chunk).encode()
    yield decoder.decode(b"", final=True).encode()
