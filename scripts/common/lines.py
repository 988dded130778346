"""CSV as every reader takes it: lines that end in a line feed."""

import csv
from typing import TextIO


class _LineFeeds:
    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, line: str) -> None:
        self._file.write(line.removesuffix("\r\n") + "\n")


def csv_writer(file: TextIO):
    """A csv.writer with line feeds. The library's own quotes a carriage return only if its line ends
    have one, and what it writes else is two rows to whoever reads it."""
    return csv.writer(_LineFeeds(file))
