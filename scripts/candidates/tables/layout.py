"""Which column of a table is what, and the numbers of each row.

Rows and columns are counted from 0 here, and from 1 in what a person reads.
"""

import math
from collections import Counter

import numpy as np

from candidates.tables import names
from candidates.tables.dialect import (
    DELIMITERS,
    SAMPLE,
    BadTable,
    announced,
    cells_of,
    delimiter_of,
    is_missing,
    is_number,
    lines_of,
    number_of,
)  # fmt: skip
from candidates.tables.names import FEATURES, LABEL

TRUTHS = {"false": 0.0, "true": 1.0}
SHOWN = 12  # names in a complaint


class Layout:
    """How a table is written, and which of its columns is what.

    `features` holds the column of each of FEATURES, `label` that of the class or None, `carried`
    those that go through to the output, such as an id.
    """

    def __init__(self, delimiter, width):
        self.delimiter, self.decimal, self.width = delimiter, ".", width
        self.header = None  # the cells of the header line
        self.names = None  # of every column, where they mean something
        self.features, self.label, self.carried = list(range(len(FEATURES))), None, []
        self.excess = 0.0  # what is to be taken from each kurtosis
        self.notes = []

    def title(self, column):
        return self.names[column].strip() if self.names else ""

    def shown(self, column):
        """How a person would call a column."""
        if column in self.features:
            role = FEATURES[self.features.index(column)]
        else:
            role = LABEL if column == self.label else self.title(column)
        return f"column {column + 1}" + (f" ({role})" if role else "")

    def told(self):
        """Which column was taken for what, in lines for a person."""
        signs = ", decimal commas" if self.decimal == "," else ""
        by = "name" if self.names else "position"
        lines = [f"{DELIMITERS[self.delimiter]}-separated{signs}, columns by {by}"]
        titles = [self.title(column) for column in self.features]
        if self.names and not names.are_ours(titles):
            pairs = (f"{feature} = {title!r}" for feature, title in zip(FEATURES, titles))
            lines.append("; ".join(pairs))
        elif self.features != list(range(len(FEATURES))):
            places = ", ".join(str(column + 1) for column in self.features)
            lines.append(f"the features are columns {places}")
        if self.label is not None:
            lines.append(f"the class is column {self.label + 1} {self.title(self.label)}".rstrip())
        if self.carried:
            kept = ", ".join(f"{c + 1} {self.title(c)}".rstrip() for c in self.carried)
            lines.append(f"carried through: column {kept}")
        return lines + self.notes


class Rows:
    """What rows hold: `values` (n, 8); `truth` (n,), NaN where unknown; `carried`, cells of each; and
    `bad`, pairs of a row and what is wrong in it."""

    def __init__(self, values, truth, carried, bad):
        self.values, self.truth, self.carried, self.bad = values, truth, carried, bad

    def without_bad(self):
        keep = np.ones(len(self.values), dtype=bool)
        keep[[row for row, _ in self.bad]] = False
        carried = [self.carried[row] for row in np.flatnonzero(keep)]
        return Rows(self.values[keep], self.truth[keep], carried, [])


# -- which column is what -------------------------------------------------------------


def layout(text):
    """How the table is written whose first lines these are; BadTable when that cannot be told."""
    lines = lines_of(text)
    if not lines:
        raise BadTable("it is empty: no candidates in it")
    delimiter = announced(lines[0])
    if delimiter:
        lines = lines[1:]
    sample = lines[: SAMPLE + 1]
    delimiter = delimiter or delimiter_of(sample)
    if delimiter not in DELIMITERS:
        raise BadTable(f"its delimiter {delimiter!r} is none of: {', '.join(DELIMITERS.values())}")
    rows = cells_of(sample, delimiter)
    found = _shape(rows, delimiter)
    body = rows if found.header is None else rows[1:]
    if not body:
        raise BadTable("it holds no candidates" + (", only a header" if found.header else ""))
    fitting = [row for row in body if len(row) == found.width]
    columns = list(zip(*fitting))
    if found.names:
        _by_name(found, columns)
    else:
        _by_position(found, columns)
    cells = [cell for column in found.features for cell in columns[column]]
    if any("," in cell for cell in cells) and all(
        number_of(c, ".") is None or "." not in c for c in cells
    ):
        found.decimal = ","
    return found


def _shape(rows, delimiter):
    """The width of a table and its header, a line whose cells are names and not numbers."""
    if not rows:
        raise BadTable("it holds no candidates")
    first, body = rows[0], rows[1:]
    width = Counter(len(row) for row in body or rows).most_common(1)[0][0]
    found = Layout(delimiter, width)
    fitting = [row for row in body if len(row) == width]
    means = any(names.feature_of(name) for name in first)
    counts = names.are_counted(first)
    if not (means or counts or _words_over_numbers(first, fitting)):
        if fitting and not first[0].strip() and all(is_number(cell) for cell in first[1:]):
            raise BadTable(
                "its header holds numbers: the first candidate became the header, as in pandas without "
                "header=None; write the table again with header=None"
            )
        return found
    found.header = first
    no_end = fitting and all(not row[-1].strip() for row in fitting)
    if len(first) == width - 1:  # R's row names have no name; or the rows end with a delimiter
        first = [*first, ""] if no_end else ["", *first]
    if len(first) != width:
        raise BadTable(f"its header has {len(first)} columns, its rows have {width}")
    if means:
        found.names = first
    elif not counts:
        raise BadTable(
            f"no column is named as a feature is: {_listed(first)}; name them {', '.join(FEATURES)}, "
            "or delete the header if they stand in this order"
        )
    return found


def _words_over_numbers(first, body):
    """Whether the first line has words where the others have numbers."""
    for column, cell in enumerate(first):
        if not is_number(cell) and not is_missing(cell):
            below = [row[column] for row in body if column < len(row)]
            if 2 * sum(map(is_number, below)) > len(below):
                return True
    return not body and not any(map(is_number, first))


def _listed(titles):
    shown = ", ".join(repr(title.strip()) for title in titles[:SHOWN])
    return shown + (", ..." if len(titles) > SHOWN else "")


def _by_name(found, columns):
    places = names.features_among(found.names)
    for feature, at in zip(FEATURES, places):
        if len(at) > 1:
            both = " and ".join(f"column {c + 1} {found.title(c)!r}" for c in at)
            raise BadTable(f"{both} could both be {feature}: delete or rename one")
    absent = [feature for feature, at in zip(FEATURES, places) if not at]
    if absent:
        raise BadTable(f"no column for {', '.join(absent)}; its columns are {_listed(found.names)}")
    found.features = [at[0] for at in places]
    rest = [column for column in range(found.width) if column not in found.features]
    found.label = _label(found, rest, columns)
    for column in rest:
        empty = not found.title(column) and not any(cell.strip() for cell in columns[column])
        if column != found.label and not empty:
            found.carried.append(column)


def _label(found, rest, columns):
    """The column of the class: the one called so, or else the only one of zeros and ones."""
    named = [column for column in rest if names.is_label(found.names[column])]
    if len(named) > 1:
        both = " and ".join(repr(found.title(column)) for column in named)
        raise BadTable(f"{both} could both be the class: delete or rename one")
    if named:
        return named[0] if any(not is_missing(cell) for cell in columns[named[0]]) else None
    binary = [
        column
        for column in rest
        if not names.is_unnamed(found.names[column])
        and {truth_of(cell) for cell in columns[column]} == {0.0, 1.0}
        and not _counts(columns[column])
    ]
    return binary[0] if len(binary) == 1 else None


def _by_position(found, columns):
    text = [
        column
        for column, cells in enumerate(columns)
        if found.width > len(FEATURES)
        and not any(is_number(cell) or is_missing(cell) for cell in cells)
    ]
    rest = [column for column in range(found.width) if column not in text]
    if len(rest) > len(FEATURES) and not any(cell.strip() for cell in columns[rest[-1]]):
        rest.pop()  # each line ends with a delimiter
    if len(rest) > len(FEATURES) and _counts(columns[rest[0]]):
        text.append(rest.pop(0))
    found.carried = sorted(text)
    if len(rest) == len(FEATURES) + 1:
        ends = [c for c in (rest[0], rest[-1]) if {truth_of(x) for x in columns[c]} <= {0.0, 1.0}]
        if len(ends) != 1:
            which = "both the first and the last" if ends else "neither the first nor the last"
            raise BadTable(
                f"nine columns without names, and {which} could be the class (0 or 1); name them "
                f"{', '.join(FEATURES)}"
            )
        found.label = ends[0]
        rest.remove(found.label)
    if len(rest) != len(FEATURES):
        words = f", {len(text)} of them no feature's" if text else ""
        raise BadTable(
            f"row 1 has {found.width} columns{words}, not 8 (or 9 with the class): {', '.join(FEATURES)}"
        )
    found.features = rest


def _counts(cells):
    """Whether they are an index: 0, 1, 2 ... or 1, 2, 3 ..."""
    numbers = [number_of(cell) for cell in cells]
    return numbers[0] in (0, 1) and numbers == [numbers[0] + n for n in range(len(numbers))]


def truth_of(cell):
    """The class in a cell: 0, 1, NaN where it is missing, None where it is neither."""
    if is_missing(cell):
        return math.nan
    number = number_of(cell)
    return number if number in (0, 1) else TRUTHS.get(cell.strip().lower())


# -- the numbers of each row ----------------------------------------------------------


def rows_in(text, found, first=True):
    """The candidates in lines of a table, as Rows; with `first`, the lines begin with its header.

    Kurtosis is as the table has it. BadTable when quotes do not match.
    """
    lines = lines_of(text)
    if first and lines and announced(lines[0]):
        lines = lines[1:]
    cells = cells_of(lines, found.delimiter)
    if first and found.header is not None:
        cells = cells[1:]
    values = np.full((len(cells), len(FEATURES)), np.nan)
    truth = np.full(len(cells), np.nan)
    carried, bad = [], []
    for number, row in enumerate(cells):
        reason = _fill(row, found, values, truth, number)
        if reason:
            bad.append((number, reason))
        carried.append([row[column] if column < len(row) else "" for column in found.carried])
    return Rows(values, truth, carried, bad)


def _fill(row, found, values, truth, number):
    """Put one row's numbers in their place, or say what is wrong in it."""
    if row == found.header:
        return "is the header again: are these two tables in one file?"
    if len(row) != found.width:
        return f"has {len(row)} columns, not {found.width}"
    for place, column in enumerate(found.features):
        value = number_of(row[column], found.decimal)
        if value is None or not math.isfinite(value):
            return f"{found.shown(column)} {_complaint(row[column])}"
        values[number, place] = value
    if found.label is not None:
        value = truth_of(row[found.label])
        if value is None:
            return f"{found.shown(found.label)} must be 0 or 1, not {row[found.label]!r:.40}"
        truth[number] = value
    return None


def _complaint(cell):
    if is_missing(cell):
        return "is missing"
    if is_number(cell) or cell.strip().lower().lstrip("+-") in ("inf", "infinity"):
        return f"is not finite: {cell!r:.40}"
    return f"is no number: {cell!r:.40}"
