"""The forms that a list is written in: CSV, or Parquet where its name says so."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import PurePath
from typing import BinaryIO

import pyarrow as pa
from pyarrow import csv as fast_csv
from pyarrow import parquet

from clients import places
from common.lines import csv_lines

PARQUET = ".parquet"
GROUP = 65_536  # rows
PACKED = (".gz", ".bz2", ".xz", ".zip", ".zst", ".xlsx", ".json", ".feather", ".arrow")


def refused(place: str, is_shard: bool) -> str:
    """Why a list is not written under such a name; empty where it is."""
    suffix = PurePath(place).suffix.lower()
    if suffix in PACKED:
        return f"a list is written as CSV or Parquet, not as {suffix}"
    if is_shard and suffix == PARQUET:
        return "the lists of shards are CSV: --merge makes one of them, Parquet by its name"
    return ""


def header(columns: list[str]) -> bytes:
    """The line that names them."""
    return "".join(csv_lines([columns])).encode()


class Csv:
    """Lines as they come, behind those that name the columns."""

    def __init__(self, sink: BinaryIO, columns: list[str], has_header: bool) -> None:
        self._sink = sink
        if has_header:
            sink.write(header(columns))

    def write(self, lines: bytes) -> None:
        self._sink.write(lines)

    def write_all(self, lines: Iterable[bytes]) -> None:
        """Line by line."""
        self._sink.writelines(lines)

    def close(self) -> None:
        pass


class Parquet:
    """The same lines as row groups of GROUP: what of ours is a number, is one there; the rest is text."""

    def __init__(self, sink: BinaryIO, columns: list[str], numbers: dict[str, pa.DataType]) -> None:
        named = [name or f"column_{place}" for place, name in enumerate(columns, start=1)]
        types = [numbers.get(name, pa.string()) for name in named]
        # Under numbers, for names may be there twice; that is for the reader to know.
        self._columns = [str(number) for number in range(len(named))]
        self._types = dict(zip(self._columns, types, strict=True))
        self._schema = pa.schema(list(zip(named, types, strict=True)))
        self._waiting = self._schema.empty_table()
        self._writer = parquet.ParquetWriter(sink, self._schema, compression="zstd")

    def write(self, lines: bytes) -> None:
        if not lines:
            return
        table = fast_csv.read_csv(
            pa.BufferReader(lines),
            fast_csv.ReadOptions(
                column_names=self._columns, block_size=len(lines) + 1, use_threads=False
            ),
            fast_csv.ParseOptions(newlines_in_values=True),
            fast_csv.ConvertOptions(
                column_types=self._types, null_values=[""], strings_can_be_null=False
            ),
        )
        self._waiting = pa.concat_tables([self._waiting, table.rename_columns(self._schema.names)])
        # The same rows make the same bytes, in whatever pieces they come.
        while len(self._waiting) >= GROUP:
            self._write(GROUP)

    def _write(self, count: int) -> None:
        self._writer.write_table(self._waiting.slice(0, count).combine_chunks(), count)
        self._waiting = self._waiting.slice(count)

    def write_all(self, lines: Iterable[bytes]) -> None:
        """Line by line."""
        lines = iter(lines)
        while some := b"".join(islice(lines, GROUP)):
            self.write(some)

    def close(self) -> None:
        if len(self._waiting):
            self._write(len(self._waiting))
        self._writer.close()


@contextmanager
def written(
    place: str, columns: list[str], numbers: dict[str, pa.DataType], has_header: bool = True,
    example: str = "scored.csv",
) -> Iterator[Csv | Parquet]:  # fmt: skip
    """What takes the lines of a list; it appears under its name when it is whole. `numbers` are the
    columns that are numbers in Parquet."""
    with places.completed(place, example) as sink:
        is_parquet = PurePath(place).suffix.lower() == PARQUET
        form = Parquet(sink, columns, numbers) if is_parquet else Csv(sink, columns, has_header)
        yield form
        form.close()
