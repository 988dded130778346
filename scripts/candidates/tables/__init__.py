"""Read tables of candidates as people have them: the one place that parses them.

It travels in model.tar.gz beside inference.py, so it needs numpy alone and runs on old Pythons.

    dialect.py     bytes to cells: encoding, line ends, delimiter, quotes, decimal sign
    names.py       what the name of a column means
    layout.py      which column is what, and the numbers of each row
    moments.py     what the numbers give away: names exchanged, features standardised
    scales.py      what is outside of what a model was trained on, and which model is for it

Columns are found by name where they have names, by position where eight or nine have none. What
fits neither is refused by BadTable, never guessed.
"""

from candidates.tables.dialect import BadTable, decoded, encoding_of
from candidates.tables.layout import Layout, Rows, layout, rows_in
from candidates.tables.moments import EXCESS, PEARSON, judge, orient
from candidates.tables.names import FEATURES, LABEL
from candidates.tables.scales import (
    COLUMNS,
    EIGHT,
    SIX,
    Outside,
    choose,
    ends_of,
    ranges_of,
    together,
    told,
)

__all__ = [
    "COLUMNS", "EIGHT", "EXCESS", "FEATURES", "LABEL", "PEARSON", "SHOWN", "SIX", "BadTable", "Layout",
    "Outside", "Rows", "choose", "complaint", "decoded", "encoding_of", "ends_of", "judge", "layout",
    "orient", "ranges_of", "read", "rows_in", "together", "told",
]  # fmt: skip
SHOWN = 10  # bad rows that are told one by one


def read(text, kurtosis=None, drop_bad=False):
    """The Layout of a table and its Rows, all of them good; BadTable says what is wrong in it.

    `kurtosis` says which one the table has, where somebody knows; with `drop_bad`, rows that cannot be
    read are left out, and the layout's notes say how many.
    """
    found = layout(text)
    rows = rows_in(text, found)
    if rows.bad and not drop_bad:
        raise BadTable(complaint(rows.bad), rows=True)
    if rows.bad:
        found.notes.append(f"left out: {complaint(rows.bad)}")
        rows = rows.without_bad()
    if not len(rows.values):
        raise BadTable("it has no candidates in it")
    rows.values = orient(found, rows.values)
    judge(found, rows.values, kurtosis)
    rows.values[:, [3, 7]] -= found.excess
    return found, rows


def complaint(bad, count=None):
    """What is wrong in `count` rows, of which `bad` has the first: the first in words, the others by
    number."""
    count = len(bad) if count is None else count
    number, reason = bad[0]
    text = f"row {number + 1}: {reason}"
    if count > 1:
        shown = ", ".join(str(number + 1) for number, _ in bad[:SHOWN])
        text += f"; {count} such rows: {shown}" + (", ..." if count > SHOWN else "")
    return text
