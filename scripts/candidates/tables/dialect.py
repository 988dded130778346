"""From bytes to cells: encoding, line ends, delimiter, quotes and decimal sign of a table."""

import csv
import io
import re

from candidates.tables.names import feature_of

SAMPLE = 200  # lines that a dialect is recognised from
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar", " ": "space"}
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
MISSING = {"", "na", "n/a", "#n/a", "nan", "-nan", "null", "none", "nil", "-", "?"}
MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"), (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"),
)  # fmt: skip


class BadTable(ValueError):
    """A table that cannot be read without guessing; the text says what is wrong, and where.

    `rows`: only some of its rows are wrong, and it could be read without them.
    """

    def __init__(self, text, rows=False):
        super().__init__(text)
        self.rows = rows


def encoding_of(head):
    """The codec of text that begins with these bytes. BadTable when they are no text."""
    for mark, codec in MARKS:
        if head.startswith(mark):
            return codec
    start = head[:1000]
    zeros, odd = start.count(0), start[1::2].count(0)
    if zeros:
        if zeros in (odd, zeros - odd) and 3 * zeros >= len(start):
            return "utf-16-le" if odd else "utf-16-be"
        raise BadTable("it is no text, and no format that is read here")
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        cut = error.reason == "unexpected end of data" and error.end == len(head)
        if not cut:
            return "cp1252" if _reads(head, "cp1252") else "latin-1"
    return "utf-8"


def _reads(content, codec):
    try:
        content.decode(codec)
    except UnicodeDecodeError:
        return False
    return True


def decoded(content):
    """The text of some bytes, whatever its encoding."""
    try:
        return content.decode(encoding_of(content))
    except UnicodeDecodeError as error:
        raise BadTable(f"its text is broken: {error.reason} at byte {error.start}") from None


def lines_of(text):
    """Its lines, whatever ends them, without those that are blank or comments.

    Names in a comment before the first row (numpy.savetxt), or in ARFF's attributes, make a header.
    """
    text = text.lstrip("\ufeff")
    is_arff = text.lstrip()[:1] in ("@", "%")
    lines, attributes = [], []
    for line in io.StringIO(text, newline=None):
        start = line.lstrip()
        if is_arff and start.startswith(("@", "%")):
            attributes += re.findall(r"(?i)^@attribute\s+('[^']*'|\"[^\"]*\"|\S+)", start)
        elif start.startswith("#"):
            names = re.split(r"[,;\t|]|\s+", start[1:])
            if not lines and sum(feature_of(name) is not None for name in names) >= 4:
                lines.append(start[1:].lstrip())
        elif start:
            lines.append(line)
    if any(feature_of(name) for name in attributes):
        header = io.StringIO()
        csv.writer(header, lineterminator="\n").writerow(n.strip("'\"") for n in attributes)
        lines.insert(0, header.getvalue())
    return lines


def announced(line):
    """The delimiter that Excel's own first line names, or None."""
    found = re.fullmatch(r"\"?sep=(.)\"?\s*", line)
    return found.group(1) if found else None


def delimiter_of(lines):
    """The one that makes most numbers of these lines, and most features of the names in the first."""

    def worth(delimiter):
        try:
            rows = cells_of(lines, delimiter)
        except BadTable:
            return 0
        signs = "." if delimiter == "," else ".,"
        numbers = sum(
            any(number_of(cell, sign) is not None for sign in signs) for row in rows for cell in row
        )
        return numbers + sum(feature_of(name) is not None for name in rows[0] if rows)

    return max(DELIMITERS, key=worth)  # the first of equals


def cells_of(lines, delimiter):
    """The cells of each line. BadTable when quotes do not match."""
    if delimiter == " ":
        lines = [re.sub(r"[ \t]+", " ", line.strip()) + "\n" for line in lines]
    try:
        return list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise BadTable(f"its quotes do not match: {error}") from None


def is_missing(cell):
    return cell.strip().lower() in MISSING


def number_of(cell, decimal="."):
    """The number in a cell, None when it holds none."""
    cell = cell.strip()
    if decimal == ",":
        if "." in cell:
            return None
        cell = cell.replace(",", ".")
    return float(cell) if NUMBER.fullmatch(cell) else None


def is_number(cell):
    """Whether it is one, with either decimal sign."""
    return number_of(cell) is not None or number_of(cell, ",") is not None
