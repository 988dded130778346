"""CSV as every reader takes it: lines that end in a line feed."""

import csv
import io
from collections.abc import Iterable, Iterator


def csv_lines(rows: Iterable[Iterable]) -> Iterator[str]:
    """Each row as a line.

    A csv.writer whose own lines end in a line feed alone quotes no carriage return, and what it writes
    then is two rows to whoever reads it. So its lines end in both, and the return is taken off.
    """
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    for row in rows:
        writer.writerow(row)
        yield buffer.getvalue().removesuffix("\r\n") + "\n"
        buffer.seek(0)
        buffer.truncate()
