"""What a candidate is: the eight features of HTRU2, their names, bounds and checks.

The first four describe the folded profile (128 bins of 8 bits), the last four the curve of
S/N over DM (1196 trials of 8 bits). The published description names the third and fourth
moment of each the wrong way round; the names here are what the numbers are. The proof is a
bound that no sample can break, excess kurtosis >= skewness^2 - 2 (Pearson 1916), which
every row of HTRU2 keeps under these names.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from common.errors import BadData
from common.files import sha256

FEATURES = [
    "profile_mean",
    "profile_std",
    "profile_skewness",
    "profile_kurtosis",
    "dm_mean",
    "dm_std",
    "dm_skewness",
    "dm_kurtosis",
]
LABEL = "is_pulsar"
MOMENTS = [("profile", 2, 3), ("dm", 6, 7)]  # where skewness and excess kurtosis are
ROWS, PULSARS = 17898, 1639
# sha256 of the parsed values as little-endian float64, row by row.
PUBLISHED = "bff7e0d962f5762938f833075d6bbfd3ce229cdcfb30091b4ecaa7dca4a81a74"
BOUND_SLACK = 1e-6  # the file rounds to some ten digits


def parse(text: str, name: str) -> np.ndarray:
    """The numbers of a candidate file as an array (n, 9): features and class.

    Takes CSV with any line ends (the published file has bare carriage returns), with or
    without a header line, and ARFF. Raises BadData with the row and what is wrong in it;
    rows are counted from 1 over the lines that hold candidates.
    """
    lines = [line for line in re.split(r"\r\n|\r|\n", text) if line.strip()]
    lines = [line for line in lines if not line.lstrip().startswith(("@", "%"))]
    if lines and not is_number(lines[0].split(",")[0]):
        lines = lines[1:]  # a header
    if not lines:
        raise BadData(f"{name}: no candidates in it")
    rows = []
    for number, line in enumerate(lines, start=1):
        cells = line.split(",")
        if len(cells) != 9:
            raise BadData(f"{name}: row {number} has {len(cells)} columns, not 9: {line[:60]!r}")
        try:
            rows.append([float(cell) for cell in cells])
        except ValueError:
            column = next(i for i, cell in enumerate(cells) if not is_number(cell))
            raise BadData(
                f"{name}: row {number}, column {column + 1} ({([*FEATURES, LABEL])[column]}) "
                f"is no number: {cells[column]!r}"
            ) from None
    return np.array(rows)


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def check(data: np.ndarray, name: str) -> None:
    """Whether each row can be a candidate; BadData names the first that cannot."""
    features, label = data[:, :8], data[:, 8]
    _require(np.isfinite(data), data, name, "is missing or not finite")
    _require(np.isin(label, (0, 1))[:, None], data[:, 8:], name, "must be 0 or 1", first=8)
    for moment, limit in ((0, 255.0), (1, 127.5), (4, 255.0), (5, 127.5)):
        inside = (features[:, [moment]] >= 0) & (features[:, [moment]] <= limit)
        _require(inside, features[:, [moment]], name, f"must be in 0..{limit}", first=moment)
    for what, skewness, kurtosis in MOMENTS:
        broken = bound_excess(data, skewness, kurtosis) < -BOUND_SLACK
        if broken.any():
            row = int(np.argmax(broken))
            raise BadData(
                f"{name}: row {row + 1}: {what}_kurtosis {data[row, kurtosis]} is below "
                f"{what}_skewness^2 - 2 = {data[row, skewness] ** 2 - 2:.6g}, which no sample can be "
                f"({int(broken.sum())} rows); are the two columns the other way round?"
            )


def bound_excess(data: np.ndarray, skewness: int, kurtosis: int) -> np.ndarray:
    """How far excess kurtosis is above its lower bound, relative to the size of the numbers."""
    bound = data[:, skewness] ** 2 - 2
    return (data[:, kurtosis] - bound) / (1 + np.abs(bound))


def _require(good: np.ndarray, values: np.ndarray, name: str, what: str, first: int = 0) -> None:
    if not good.all():
        row, column = np.unravel_index(int(np.argmin(good)), good.shape)
        title = ([*FEATURES, LABEL])[first + column]
        raise BadData(f"{name}: row {row + 1}: {title} {what}, not {values[row, column]}")


def check_published(data: np.ndarray, name: str) -> None:
    """Whether the data are HTRU2 in full: 17 898 candidates, 1 639 pulsars."""
    if len(data) != ROWS:
        cut = " (cut short?)" if len(data) < ROWS else ""
        raise BadData(f"{name}: {len(data)} candidates, HTRU2 has {ROWS}{cut}")
    pulsars = int(data[:, 8].sum())
    if pulsars != PULSARS:
        raise BadData(f"{name}: {pulsars} pulsars, HTRU2 has {PULSARS}")


def content_hash(data: np.ndarray) -> str:
    """The same for every copy of the same numbers, whatever its line ends and header."""
    return sha256(np.ascontiguousarray(data, dtype="<f8").tobytes())


def to_csv(data: np.ndarray) -> str:
    """The candidates with a header line, shortest exact decimals."""
    frame = pd.DataFrame(data[:, :8], columns=FEATURES)
    frame[LABEL] = data[:, 8].astype(int)
    return frame.to_csv(index=False, lineterminator="\n")


def load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, 8) and classes (n,) of a file that `to_csv` wrote."""
    frame = pd.read_csv(path)
    return frame[FEATURES].to_numpy(float), frame[LABEL].to_numpy(int)
